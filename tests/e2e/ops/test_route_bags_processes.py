"""The requests of `route_bags` in processes with different numbers of threads."""

import numpy as np

from tests.support import launch
from tests.support.model.bag_reference import random_ids
from tests.unit.ops.test_route_bags import BAGS, check_requests, layout, needed_rows

# More rows of table 1 than 1500 samples have partial sums, so that not all rows are requested once.
SIZES, SAMPLES = np.array([7, 9000, 2, 90]), 1500
# Arguments: threads, input file, output file.
PROGRAM = r"""
import sys
import numpy as np, tensorflow as tf
from ops.route_rows import route_bags
from tests.unit.ops.test_route_bags import BAGS, RANKS

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
given = np.load(sys.argv[2])
facts = given["owners"], given["bases"], given["steps"], RANKS
found = {}
for unique in (False, True):
    routed = route_bags(tf.constant(given["ids"]), BAGS, given["sizes"], *facts, unique)
    found |= {f"{unique} {name}": value.numpy() for name, value in routed._asdict().items()}
np.savez(sys.argv[3], **found)
"""


def test_route_bags_requests_do_not_depend_on_the_number_of_threads(rng, tmp_path):
    ids = random_ids(rng, BAGS, SIZES, (SAMPLES,))
    owners, bases, steps = layout(rng, 2)
    given, path = tmp_path / "given.npz", tmp_path / "found.npz"
    np.savez(given, ids=ids, sizes=SIZES, owners=owners, bases=bases, steps=steps)
    needed = needed_rows(ids, owners, bases, steps)
    one = {}
    for threads in (1, 2, 5):
        done = launch.run(1, "-c", PROGRAM, threads, given, path)
        assert done.returncode == 0, done.stderr
        with np.load(path) as arrays:
            found = dict(arrays)
        one = one or found
        for name, value in one.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{threads} threads: {name}")
    for unique in (False, True):
        prefix = f"{unique} "
        arrays = {n.removeprefix(prefix): v for n, v in one.items() if n.startswith(prefix)}
        sums, requested = check_requests(arrays, needed, unique)
        assert requested[1] == sums[1] and (requested[0] < sums[0]) == unique
