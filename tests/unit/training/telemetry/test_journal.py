"""The journal of a real run against its description."""

import json
import math
import os
import re

import numpy as np
import pytest

from tests.support.paths import ROOT
from training.runtime.errors import UserError
from training.telemetry.journal import EVENTS, Journal, JsonLines, new_run_folder, point_latest
from training.telemetry.progress import evaluation_text
from training.telemetry.summary import rows

DOCUMENT = ROOT / "docs" / "journal.md"


def described():
    """Returns {event: ({fields that are always there}, {fields that may be})}."""
    found = {}
    for event, field, star in re.findall(
        r"^\| `(\w+)` \| (?:`(\w+)`( \*)?)? ?\|", DOCUMENT.read_text(), re.MULTILINE
    ):
        always, sometimes = found.setdefault(event, (set(), set()))
        if field:
            (sometimes if star else always).add(field)
    return found


def test_every_event_is_described():
    assert set(described()) == set(EVENTS)
    for event, (always, sometimes) in described().items():
        listed = re.sub(r"\([^()]*\)", "", EVENTS[event])
        for field in () if event == "end" else always | sometimes:
            assert re.search(rf"(^|[,;:] |and ){field}\b", listed), f"{event}: {field}"


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    sink = JsonLines(tmp_path)
    with pytest.raises(UserError, match=f"^run folder {tmp_path}: cannot be written: No space"):
        Journal([sink]).emit("message", text="found no room")
    sink.close()  # says nothing more


@pytest.mark.launches
def test_a_run_has_the_fields_that_are_described(learnable_run):
    kinds = described()
    seen = {record["event"] for record in learnable_run.events}
    assert {"config", "epoch", "step", "evaluation", "checkpoint", "end"} <= seen
    for record in learnable_run.events:
        always, sometimes = kinds[record["event"]]
        fields = set(record) - {"event", "time"}
        assert always <= fields <= always | sometimes, record["event"]


@pytest.mark.launches
def test_events_come_in_order_of_time(learnable_run):
    events = learnable_run.events
    times = [record["time"] for record in events]
    assert times == sorted(times)
    assert times[0] >= 0
    assert events[0]["event"] in ("config", "message")
    assert events[-1]["event"] == "end"
    # An evaluation lies whole between the events around it.
    for before, record in zip(events, events[1:]):
        if record["event"] == "evaluation" and before["event"] != "evaluation":
            assert record["time"] - record["seconds"] >= before["time"] - 0.01
    epochs = [record for record in events if record["event"] == "epoch"]
    assert [record["epoch"] for record in epochs] == list(range(len(epochs)))
    assert [record["step"] for record in epochs] == [
        learnable_run.steps_per_epoch * n for n in range(len(epochs))
    ]


def test_result_is_the_last_event(tmp_path):
    journal = Journal([JsonLines(tmp_path)])
    journal.emit("message", text="one")
    journal.emit("end", auc=0.5, steps=3)
    journal.close()
    assert json.loads((tmp_path / "result.json").read_text()) == {"auc": 0.5, "steps": 3}
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["message", "end"]
    assert lines[0]["text"] == "one"
    with pytest.raises(ValueError, match="unknown event 'stop'"):
        journal.emit("stop")


def strict(text):
    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_numbers_that_are_not_finite_are_null(tmp_path, value):
    journal = Journal([JsonLines(tmp_path)])
    journal.emit("evaluation", step=1, auc=value, log_loss=0.5, samples=3, seconds=0.1)
    journal.emit("breakdown", phases=[{"name": "read", "milliseconds": value}])
    journal.emit("config", flags={"lr": (value, 1)}, data={"text": "NaN", "sizes": [1, 2**60]})
    journal.emit("end", auc=value, best_auc=None, evaluations=[{"auc": value}])
    journal.close()
    lines = [strict(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines[0]["auc"] is None and lines[0]["log_loss"] == 0.5
    assert lines[1]["phases"] == [{"name": "read", "milliseconds": None}]
    assert lines[2]["flags"] == {"lr": [None, 1]}
    assert lines[2]["data"] == {"text": "NaN", "sizes": [1, 2**60]}
    result = strict((tmp_path / "result.json").read_text())
    assert result == {"auc": None, "best_auc": None, "evaluations": [{"auc": None}]}


def test_people_are_told_that_a_score_is_not_known():
    record = {"step": 3, "auc": None, "log_loss": 0.25, "samples": 9, "seconds": 1.0}
    assert evaluation_text(record) == "step 3: AUC n/a, log loss 0.250000, 9 samples in 1.00 s"
    result = {
        "flags": {"epochs": 1, "auc_threshold": 1, "global_batch_size": 8, "xla": False,
                  "custom_interact": False, "amp": False, "compress": False},
        "steps": 3, "stopped_by": "epochs", "evaluation_interval": None, "training_seconds": 1.0,
        "evaluating_seconds": 1.0, "total_seconds": 2.0, "ms_per_iteration": None,
        "samples_per_second": None, "ranks": 1, "auc": None, "best_auc": None, "log_loss": 0.25,
        "attainable_auc": None, "versions": {"gpu": None},
    }  # fmt: skip
    table = dict(rows(result))
    assert (table["AUC"], table["best AUC"], table["log loss"]) == ("n/a", "n/a", "0.250000")
    assert "AUC" not in dict(rows({**result, "log_loss": None}))


def test_latest_points_to_the_newest_run(tmp_path):
    for _ in range(3):
        folder = new_run_folder(tmp_path / "runs")
        assert point_latest(folder)
        assert (tmp_path / "runs" / "latest").resolve() == folder.resolve()
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("make", ["file", "folder", "link"])
def test_somebody_elses_latest_stays(tmp_path, make):
    latest = tmp_path / "latest"
    if make == "file":
        latest.write_text("theirs")
    elif make == "folder":
        latest.mkdir()
    else:
        latest.symlink_to("/somewhere/20260101-000000")
    before = os.lstat(latest)
    assert not point_latest(new_run_folder(tmp_path))
    assert os.lstat(latest).st_ino == before.st_ino
