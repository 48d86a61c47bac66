"""NVTX ranges in a step change neither its results nor which operations may overlap."""

import pytest

from ops.nvtx import ranges
from tests.support.ops.graphs import ancestors
from tests.support.training import small_model
from training import phases

IN_EACH_STEP = (
    phases.LOOKUP, phases.EXCHANGE_VECTORS, phases.DENSE, phases.AVERAGE, phases.UPDATE_DENSE,
    phases.EXCHANGE_GRADIENTS, phases.UPDATE_ROWS,
)  # fmt: skip


def test_range_waits_only_for_ranges_that_it_needs(monkeypatch, rng, seed):
    monkeypatch.setattr(ranges, "is_tool_attached", lambda: True)
    step = small_model.build(seed, policy="row", compress=True)[-1]
    small_model.train(step, small_model.batches(2, rng))
    operations = step._function.get_concrete_function().graph.get_operations()
    starts = {
        op.get_attr("label").decode(): op for op in operations if op.type == "Dlrm>NvtxRangeStart"
    }
    assert starts.keys() == {phases.EXCHANGE_IDS, *IN_EACH_STEP}
    names = {start: name for name, start in starts.items()}
    ends = {
        names[op.inputs[-1].op]: op for op in operations if op.type == "Dlrm>NvtxRangeEnd"
    }  # fmt: skip
    assert ends.keys() == starts.keys()
    waits = {}
    for name, start in starts.items():
        before = ancestors(start)
        waits[name] = {other for other, operation in ends.items() if operation in before}
    assert waits == {
        phases.EXCHANGE_IDS: set(),
        phases.LOOKUP: set(),
        phases.EXCHANGE_VECTORS: {phases.LOOKUP},
        phases.DENSE: {phases.LOOKUP, phases.EXCHANGE_VECTORS},
        phases.AVERAGE: set(IN_EACH_STEP[:3]),
        phases.UPDATE_DENSE: set(IN_EACH_STEP[:4]),
        # It does not wait for the dense gradients.
        phases.EXCHANGE_GRADIENTS: {phases.LOOKUP, phases.EXCHANGE_VECTORS},
        phases.UPDATE_ROWS: {*IN_EACH_STEP[:2], phases.EXCHANGE_GRADIENTS},
    }
    # The bottom MLP waits for no range.
    first = next(op for op in operations if op.type == "MatMul" and "/bottom/" in op.name)
    assert not ancestors(first) & set(starts.values())


@pytest.mark.parametrize(
    "options",
    [
        {"custom_interact": True, "xla": True},
        {"policy": "row", "compress": True, "overlap": False, "embedding_optimizer": "adagrad"},
        {"dtype": "bfloat16", "optimizer": "adam"},
    ],
    ids=str,
)
def test_ranges_change_no_bit_of_the_training(monkeypatch, options, rng, seed):
    made, trained = small_model.batches(6, rng), []
    for attached in (False, True):
        monkeypatch.setattr(ranges, "is_tool_attached", lambda attached=attached: attached)
        *owners, step = small_model.build(seed, **options)
        losses = small_model.train(step, made)
        trained.append((losses, [array.tobytes() for array in small_model.state(*owners)]))
        assert step.traces() == 1
    assert trained[0] == trained[1]
    assert len(set(trained[0][0])) > 1
