"""Multi-hot features on real ranks; tests/unit/model/test_bag_embedding.py has more cases."""

from tests.support import launch
from tests.support.model import bag_worker


def test_bags_of_two_ranks_equal_numpy(seed):
    result = launch.run(2, "tests/support/model/bag_worker.py", seed)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(": equal") == 2 * len(bag_worker.CASES)
