"""What the report reads: whole, cut and damaged journals, and runs that were resumed."""

import numpy as np
import pytest

from tests.support.training.telemetry.report.journals import END, make_events, write_run
from training.runtime.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from training.telemetry.journal import Journal, JsonLines
from training.telemetry.report.__main__ import main
from training.telemetry.report.plots import make_plots
from training.telemetry.report.runs import read_runs


def test_a_cut_last_line_is_left_out_and_said(tmp_path):
    events = make_events()
    whole = read_runs([write_run(tmp_path / "whole", events)])[0]
    cut = write_run(tmp_path / "cut", events, tail='{"event": "step", "time": 1')
    run = read_runs([cut])[0]
    assert run.events == whole.events
    assert run.cut == (str(cut),)
    assert whole.cut == ()
    assert main([str(cut)]) == EXIT_OK
    assert "is cut and left out" in (cut / "report.html").read_text(encoding="utf-8")


def test_a_whole_last_line_without_line_end_is_kept(tmp_path):
    events = make_events()
    path = write_run(tmp_path / "run", events) / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    run = read_runs([path.parent])[0]
    assert not run.cut
    assert sum(map(len, run.events.values())) == len(events)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"event": "step", "sec', "is not JSON"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"[1, 2]", "expected object, found a list of 2; the line is damaged"),
        (b'{"event": 3}', "event: expected str, found 3; the line is damaged"),
        (b'{"event": "evaluation", "step": 3}', "auc: is missing (the evaluation event)"),
        (b'{"event": "message", "text": 5}', "text: expected str, found 5 (the message event)"),
        (b'{"event": "config", "flags": {}, "versions": {}, "data": {}, "ranks": 1, "steps": 1}',
         "flags.global_batch_size: is missing"),
        (b'{"event": "breakdown", "step": 1, "phases": [7], "step_milliseconds": 1, '
         b'"whole_milliseconds": 1}', "phases[0]: expected object, found 7"),
        (b'{"event": "step", "x": ' + b"[" * 100_000, "is nested too deep"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path, capsys, line, reason):
    events = make_events()
    path = write_run(tmp_path / "run", events) / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    at = np.random.default_rng().integers(1, len(lines) - 2)
    path.write_bytes(b"\n".join([*lines[:at], line, *lines[at:]]))
    assert main([str(path.parent)]) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert f"{path}: line {at + 1}: " in message
    assert reason in message
    assert not (path.parent / "report.html").exists()


def test_folders_that_are_no_run(tmp_path, capsys):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    cases = {tmp_path / "none": "no such folder", tmp_path / "runs" / "a": "no journal.jsonl"}
    write_run(tmp_path / "runs" / "b", make_events())
    cases[tmp_path / "runs"] = f"give {tmp_path / 'runs' / 'b'}"
    cases[tmp_path / "runs" / "b" / "journal.jsonl"] = "is a file"
    cases[write_run(tmp_path / "early", [{"event": "message", "text": "x"}])] = "no config event"
    cases[write_run(tmp_path / "late", make_events()[1:] + make_events()[:1])] = "before the first"
    for folder, reason in cases.items():
        assert main([str(folder)]) == EXIT_USER_ERROR
        message = capsys.readouterr().err
        assert str(folder) in message
        assert reason in message
    run = write_run(tmp_path / "twice", make_events())
    with pytest.raises(UserError, match="given twice"):
        read_runs([run, tmp_path / "runs" / ".." / "twice"])
    (run / "result.json").write_text('{"auc"')
    with pytest.raises(UserError, match=r"result\.json: is not JSON"):
        read_runs([run])


def test_what_cannot_be_written_is_one_line(tmp_path, capsys):
    run = write_run(tmp_path / "run", make_events())
    (tmp_path / "file").touch()
    for arguments, reason in (
        (["--output", str(tmp_path)], f"{tmp_path}: cannot be written: is a folder"),
        (["--output", str(tmp_path / "file" / "page")], f"{tmp_path / 'file'}: is a file"),
        (["--png", str(tmp_path / "file")], f"{tmp_path / 'file'}: is a file, expected a folder"),
    ):
        assert main([str(run), *arguments]) == EXIT_USER_ERROR
        message = capsys.readouterr().err
        assert reason in message
        assert message.count("\n") == 1


def test_unknown_kinds_of_events_are_left_out(tmp_path):
    events = make_events()
    newer = [*events[:3], {"event": "epoch", "epoch": 0}, *events[3:]]
    runs = [read_runs([write_run(tmp_path / n, e)])[0] for n, e in (("a", events), ("b", newer))]
    assert runs[0].events == runs[1].events


@pytest.mark.parametrize("folders", [1, 2])
def test_a_resumed_run_is_one_line(tmp_path, folders):
    flags = {"checkpoint_dir": "/checkpoints"}
    first = make_events(stop=60, flags=flags)
    second = make_events(start=40, stop=100, flags=flags)
    if folders == 1:
        given = [write_run(tmp_path / "a", first + second)]
    else:
        given = [write_run(tmp_path / "a", first), write_run(tmp_path / "b", second, END)]
    (run,) = read_runs(given)
    steps = [e["step"] for e in run.of("step")]
    expected = [e["step"] for e in first if e["event"] == "step" and e["step"] <= 40]
    expected += [e["step"] for e in second if e["event"] == "step"]
    assert steps == expected == sorted(set(expected))
    assert [e["step"] for e in run.redone] == [
        e["step"] for e in first if e["event"] == "step" and e["step"] > 40
    ]
    everything = sorted([*run.redone, *run.of("step")], key=lambda e: e["clock"])
    lengths = [max(e["time"] for e in part if e["event"] == "step") for part in (first, second)]
    assert everything[-1]["clock"] >= sum(lengths)
    ((clock, step),) = run.resumes
    assert step == 40
    assert max(e["clock"] for e in run.redone) <= clock
    assert clock < min(e["clock"] for e in run.of("step") if e["step"] > 40)
    drawn = {plot.key: plot for plot in make_plots([run])}["throughput"]
    for layer in drawn.layers:
        if layer.kind == "line":
            assert [x for x, y in zip(layer.x, layer.y) if np.isnan(y)] == [clock]
    assert run.name == ("a" if folders == 1 else "a + 1 resumed")


def test_runs_that_did_not_resume_from_each_other_stay_apart(tmp_path):
    first = write_run(tmp_path / "x" / "run", make_events(flags={"checkpoint_dir": "/one"}))
    other = make_events(start=40, stop=100, flags={"checkpoint_dir": "/two"})
    second = write_run(tmp_path / "y" / "run", other)
    assert [run.name for run in read_runs([first, second])] == ["x/run", "y/run"]


def test_what_the_journal_writes_is_read(tmp_path):
    folder = write_run(tmp_path / "run", [])
    journal = Journal([JsonLines(folder)])
    events = make_events()
    for event in events:
        fields = {name: value for name, value in event.items() if name not in ("event", "time")}
        journal.emit(event["event"], **fields)
    journal.emit("epoch", epoch=0, step=0)
    journal.emit("end", **END)
    journal.close()
    run = read_runs([folder])[0]
    assert sum(map(len, run.events.values())) == len(events) + 1
    clocks = [e["clock"] for e in run.of("step")]
    assert clocks == sorted(clocks) and clocks[0] >= 0 and clocks[-1] < 60
    assert run.result == END


def test_a_run_that_did_not_train_is_refused(tmp_path):
    events = [{**make_events()[0], "mode": "evaluate"}, make_events()[2]]
    with pytest.raises(UserError, match=r"line 1: a run of --mode=evaluate, expected one that tr"):
        read_runs([write_run(tmp_path / "run", events)])


@pytest.mark.parametrize("stamp", ["time", "seconds"])
def test_evaluations_and_checkpoints_are_placed_between_steps(tmp_path, stamp):
    run = read_runs([write_run(tmp_path / "run", make_events(stamp=stamp))])[0]
    assert len(run.of("evaluation")) == 5 and len(run.of("checkpoint")) == 2
    for event in run.of("evaluation") + run.of("checkpoint"):
        before = [e["clock"] for e in run.of("step") if e["step"] <= event["step"]]
        after = [e["clock"] for e in run.of("step") if e["step"] > event["step"]]
        assert max(before, default=0) <= event["clock"] <= min(after, default=np.inf)
