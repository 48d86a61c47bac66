"""A step on multi-hot features copies nothing between host and GPU but the next batch."""

import pytest

from ops.bags import Bags
from tests.support.placement.crossings import crossings
from tests.support.placement.traced_step import traced
from tests.support.placement.two_ranks import TwoRanks
from tests.unit.training.test_step_placement import FUSED_FLOAT16, ON_GPU
from training.precision import LossScale

BAGS = Bags.of((3, 1, 2), ("sum", "mean", "mean"), (False, False, True))
OPTIONS = {
    "tables": {},
    "rows": {"policy": "row"},
    "distinct rows": {**FUSED_FLOAT16, "policy": "row", "compress": True},
    "replicated": {"replicate_below_rows": 60, "embedding_optimizer": "adagrad"},
    "side stream": {**FUSED_FLOAT16, "side_stream": True, "replicate_below_rows": 60},
}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_step_with_bags_copies_nothing_but_the_next_batch(options, ranks, seed):
    cluster = TwoRanks() if ranks == 2 else None
    graph = traced(seed, cluster=cluster, scale=LossScale(1024.0), bags=BAGS, **options)
    assert not list(map(str, crossings(graph, ON_GPU)))
