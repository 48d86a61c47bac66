"""The journal of a real run: fields as documented, events in order."""

import pytest

from tests.support.training.telemetry.journal_page import described_events

pytestmark = pytest.mark.launches


def test_events_of_run_have_documented_fields(learnable_run):
    described = described_events()
    seen = {record["event"] for record in learnable_run.events}
    assert {"config", "epoch", "step", "evaluation", "checkpoint", "end"} <= seen
    for record in learnable_run.events:
        always, sometimes = described[record["event"]]
        fields = set(record) - {"event", "time"}
        assert always <= fields <= always | sometimes, record["event"]


def test_events_of_run_are_in_order(learnable_run):
    events = learnable_run.events
    times = [record["time"] for record in events]
    assert times == sorted(times)
    assert times[0] >= 0
    assert events[0]["event"] in ("config", "message")
    assert events[-1]["event"] == "end"
    # No other event occurs during an evaluation.
    for before, record in zip(events, events[1:]):
        if record["event"] == "evaluation" and before["event"] != "evaluation":
            assert record["time"] - record["seconds"] >= before["time"] - 0.01
    epochs = [record for record in events if record["event"] == "epoch"]
    assert [record["epoch"] for record in epochs] == list(range(len(epochs)))
    assert [record["step"] for record in epochs] == [
        learnable_run.steps_per_epoch * n for n in range(len(epochs))
    ]
