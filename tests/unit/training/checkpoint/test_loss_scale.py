"""What becomes of a loss scale when a run goes on after a checkpoint."""

import pytest

from tests.support.training import small_model
from training.checkpoint import restore
from training.checkpoint.saver import Saver
from training.checkpoint.state import State
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.telemetry.journal import Journal


def values(scale):
    return {name: int(variable.numpy()) for name, variable in scale.variables.items()}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("dynamic", "dynamic", {"loss_scale": 2**17, "good_steps": 321}),
        # A changed flag counts: float16 under a scale of 1 would lose what it is there to keep.
        ("1", "1024", {"loss_scale": 1024, "good_steps": 0}),
        ("dynamic", "8", {"loss_scale": 8, "good_steps": 0}),
        ("16", "dynamic", {"loss_scale": 2**15, "good_steps": 0}),
    ],
)
def test_a_scale_that_was_found_goes_on_and_any_other_is_the_flags(
    tmp_path, before, after, expected
):
    def make(kind):
        dynamic = kind == "dynamic"
        scale = LossScale(2.0**15 if dynamic else float(kind), dynamic=dynamic)
        model, embedding, optimizer, _ = small_model.build(5, scale=scale)
        return scale, State(model, optimizer, scale, embedding, SingleProcessGroup())

    scale, state = make(before)
    if before == "dynamic":
        scale.variables["loss_scale"].assign(2.0**17)
        scale.variables["good_steps"].assign(321)
    scale.variables["skipped_steps"].assign(7)
    facts = {"flags": {"loss_scale": before}, "data": {}, "versions": {}}
    saver = Saver(
        tmp_path,
        SingleProcessGroup(),
        state,
        facts,
        keep=1,
        interval=None,
        patience=30,
        journal=Journal(),
    )
    saver.begin(9, 0, [])
    saver.finish()
    scale, state = make(after)
    reader = restore.latest_complete(tmp_path, SingleProcessGroup(), pytest.fail)
    restore.load(reader, state, training=True)
    assert values(scale) == {**expected, "skipped_steps": 7, "skipped_in_a_row": 0}
