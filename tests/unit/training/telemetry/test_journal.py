"""The journal, its files, and the link to the newest run."""

import io
import json
import math
import os
import types

import numpy as np
import pytest

from tests.support.training.telemetry.journal_page import described_events
from training.config import OutputConfig
from training.runtime.errors import UserError
from training.telemetry.journal import (
    EVENTS,
    Journal,
    JsonLines,
    new_run_folder,
    update_latest_link,
)
from training.telemetry.progress import ProgressLines, event_text
from training.telemetry.sinks import make_run_folder, open_journal
from training.telemetry.step_rate import StepRate
from training.telemetry.summary import rows


def test_events_are_documented():
    assert set(described_events()) == EVENTS


def test_journal_on_full_disk_is_user_error(tmp_path):
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    sink = JsonLines(tmp_path)
    with pytest.raises(UserError) as caught:
        Journal([sink]).emit("message", text="does not fit")
    assert caught.value.path == str(tmp_path)
    assert "No space left" in str(caught.value)
    sink.close()  # Does not raise again.


def test_end_event_is_written_to_result_file(tmp_path):
    journal = Journal([JsonLines(tmp_path)])
    journal.emit("message", text="one")
    journal.emit("end", auc=0.5, steps=3)
    journal.close()
    assert json.loads((tmp_path / "result.json").read_text()) == {"auc": 0.5, "steps": 3}
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["message", "end"]
    assert lines[0]["text"] == "one"


def test_emit_rejects_unknown_event():
    with pytest.raises(ValueError, match="stop"):
        Journal().emit("stop")


def parse_strictly(text):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_nonfinite_numbers_are_written_as_null(tmp_path, value):
    journal = Journal([JsonLines(tmp_path)])
    journal.emit("evaluation", step=1, auc=value, log_loss=0.5, samples=3, seconds=0.1)
    journal.emit("breakdown", phases=[{"name": "read", "milliseconds": value}])
    journal.emit("config", flags={"lr": (value, 1)}, data={"text": "NaN", "sizes": [1, 2**60]})
    journal.emit("end", auc=value, best_auc=None, evaluations=[{"auc": value}])
    journal.close()
    lines = [parse_strictly(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines[0]["auc"] is None and lines[0]["log_loss"] == 0.5
    assert lines[1]["phases"] == [{"name": "read", "milliseconds": None}]
    assert lines[2]["flags"] == {"lr": [None, 1]}
    assert lines[2]["data"] == {"text": "NaN", "sizes": [1, 2**60]}
    result = parse_strictly((tmp_path / "result.json").read_text())
    assert result == {"auc": None, "best_auc": None, "evaluations": [{"auc": None}]}


def test_unknown_scores_are_printed_as_not_available():
    record = {"event": "evaluation", "step": 3, "auc": None, "log_loss": 0.25, "samples": 9,
              "seconds": 1.0}  # fmt: skip
    assert event_text(record) == "step 3: AUC n/a, log loss 0.250000, 9 samples in 1.00 s"
    result = {
        "flags": {"epochs": 1, "auc_threshold": 1, "global_batch_size": 8, "xla": False,
                  "custom_interact": False, "amp": False, "dedup_ids": False},
        "steps": 3, "stopped_by": "epochs", "evaluation_interval": None, "training_seconds": 1.0,
        "evaluating_seconds": 1.0, "total_seconds": 2.0, "ms_per_iteration": None,
        "samples_per_second": None, "ranks": 1, "auc": None, "best_auc": None, "log_loss": 0.25,
        "attainable_auc": None, "versions": {"gpu": None},
    }  # fmt: skip
    table = dict(rows(result))
    assert (table["AUC"], table["best AUC"], table["log loss"]) == ("n/a", "n/a", "0.250000")
    assert "AUC" not in dict(rows({**result, "log_loss": None}))


def test_latest_link_points_to_newest_run(tmp_path):
    for _ in range(3):
        folder = new_run_folder(tmp_path / "runs")
        assert update_latest_link(folder)
        assert (tmp_path / "runs" / "latest").resolve() == folder.resolve()
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("make", ["file", "folder", "link"])
def test_foreign_latest_is_kept(tmp_path, make):
    latest = tmp_path / "latest"
    if make == "file":
        latest.write_text("theirs")
    elif make == "folder":
        latest.mkdir()
    else:
        latest.symlink_to("/somewhere/20260101-000000")
    before = os.lstat(latest)
    assert not update_latest_link(new_run_folder(tmp_path))
    assert os.lstat(latest).st_ino == before.st_ino


def test_open_journal_has_sinks_only_on_rank_0(tmp_path, capsys):
    output = OutputConfig(run_dir=str(tmp_path / "runs"))
    open_journal(output, types.SimpleNamespace(rank=1)).emit("message", text="from rank 1")
    assert not (tmp_path / "runs").exists()
    journal = open_journal(output, types.SimpleNamespace(rank=0))
    journal.emit("message", text="from rank 0")
    journal.close()
    lines = (tmp_path / "runs" / "latest" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["from rank 0"]
    assert "from rank 0" in capsys.readouterr().out


def test_run_folder_that_cannot_be_created_is_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        make_run_folder(str(tmp_path / "file"))
    assert (caught.value.flag, caught.value.path) == ("run_dir", str(tmp_path / "file"))


def test_step_rate_excludes_pauses_and_first_step(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    rate = StepRate(start=10, batch=64)
    rate.start_clock()
    assert rate.since_last_call(11) == (0.0, 0.0)
    now += 6.0
    rate.pause(2.0)
    assert rate.since_last_call(13) == (2.0, 32.0)
    assert rate.since_last_call(13) == (0.0, 0.0)
    now += 1.0
    assert rate.since_last_call(14) == (1.0, 64.0)
    assert rate.overall(14, now) == (5 / 3, 64 / (5 / 3))
    assert rate.overall(11, now) == (None, None)


def test_progress_lines_print_due_steps(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def printed(print_interval):
        nonlocal now
        output = io.StringIO()
        progress = ProgressLines(output, print_interval)
        progress.event({"event": "config", "steps": 9})
        for step in range(1, 10):
            now += 4.0
            progress.event({
                "event": "step", "step": step, "loss": None if step == 1 else 0.5,
                "learning_rate": 0.1, "seconds_per_step": 2.0, "samples_per_second": 1234567.0,
            })  # fmt: skip
        return output.getvalue().splitlines()

    assert len(printed(print_interval=1)) == 9
    lines = printed(print_interval=None)
    assert [line.split()[1] for line in lines] == ["1/9", "4/9", "7/9", "9/9"]
    assert lines[0] == "step 1/9  loss n/a  1.23M samples/s  lr 0.1  16 s left"
