"""Reading runs for the report: complete, truncated and damaged journals, resumed runs."""

import numpy as np
import pytest

from tests.support.training.telemetry.report.journals import END, make_events, write_run
from training.runtime.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from training.telemetry.journal import Journal, JsonLines
from training.telemetry.report.__main__ import main, write
from training.telemetry.report.plots import make_plots
from training.telemetry.report.runs import read_runs


def test_truncated_last_line_is_skipped_and_reported(tmp_path, rng):
    events = make_events(rng)[:2]
    complete = read_runs([write_run(tmp_path / "complete", events)])[0]
    cut = write_run(tmp_path / "cut", events, tail='{"event": "step", "time": 1')
    run = read_runs([cut])[0]
    assert run.events == complete.events
    assert run.cut == (str(cut),)
    assert complete.cut == ()
    assert main([str(cut)]) == EXIT_OK
    assert "truncated" in (cut / "report.html").read_text(encoding="utf-8")


def test_complete_last_line_without_newline_is_kept(tmp_path, rng):
    events = make_events(rng)
    path = write_run(tmp_path / "run", events) / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    run = read_runs([path.parent])[0]
    assert not run.cut
    assert sum(map(len, run.events.values())) == len(events)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b'{"event": "step", "sec', None),
        (b"\xff\xfe\x00", None),
        (b"[1, 2]", None),
        (b'{"event": 3}', "event"),
        (b'{"event": "evaluation", "step": 3}', "auc"),
        (b'{"event": "message", "text": 5}', "text"),
        (b'{"event": "config", "flags": {}, "versions": {}, "data": {}, "ranks": 1, "steps": 1}',
         "flags.global_batch_size"),
        (b'{"event": "breakdown", "step": 1, "phases": [7], "step_milliseconds": 1, '
         b'"whole_milliseconds": 1}', "phases[0]"),
        (b'{"event": "step", "x": ' + b"[" * 100_000, None),
    ],
)  # fmt: skip
def test_damaged_line_is_named(tmp_path, rng, line, field):
    path = write_run(tmp_path / "run", make_events(rng)) / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    at = int(rng.integers(1, len(lines) - 2))
    path.write_bytes(b"\n".join([*lines[:at], line, *lines[at:]]))
    with pytest.raises(UserError) as caught:
        read_runs([path.parent])
    error = caught.value
    assert (error.path, error.line, error.field) == (str(path), at + 1, field)
    assert f"{path}: line {at + 1}: " in str(error)


def test_folder_that_is_not_a_run_is_user_error(tmp_path, rng, capsys):
    def error_of(folder):
        with pytest.raises(UserError) as caught:
            read_runs([folder])
        return caught.value

    (tmp_path / "runs" / "a").mkdir(parents=True)
    run = write_run(tmp_path / "runs" / "b", make_events(rng))
    for folder in (tmp_path / "none", tmp_path / "runs" / "a", run / "journal.jsonl"):
        assert error_of(folder).path == str(folder)
    assert error_of(tmp_path / "runs").expected == run
    early = write_run(tmp_path / "early", [{"event": "message", "text": "x"}])
    late = write_run(tmp_path / "late", make_events(rng)[1:] + make_events(rng)[:1])
    for folder, found in ((early, 1), (late, "breakdown")):
        error = error_of(folder)
        assert error.path == str(folder / "journal.jsonl")
        assert (error.expected, error.found) == ("config", found)
    assert main([str(late)]) == EXIT_USER_ERROR
    assert capsys.readouterr().err.startswith(f"report: {late / 'journal.jsonl'}: ")
    assert not (late / "report.html").exists()


def test_folder_given_twice_is_user_error(tmp_path, rng):
    run = write_run(tmp_path / "run", make_events(rng))
    with pytest.raises(UserError) as caught:
        read_runs([run, tmp_path / "x" / ".." / "run"])
    assert caught.value.path == str(tmp_path / "x" / ".." / "run")


def test_damaged_result_is_user_error(tmp_path, rng):
    run = write_run(tmp_path / "run", make_events(rng))
    (run / "result.json").write_text('{"auc"')
    with pytest.raises(UserError) as caught:
        read_runs([run])
    assert caught.value.path == str(run / "result.json")


def test_output_that_cannot_be_written_is_user_error(tmp_path, rng):
    run = write_run(tmp_path / "run", make_events(rng))
    file = tmp_path / "file"
    file.touch()
    for options, path in (
        ({"output": tmp_path}, tmp_path), ({"output": file / "page"}, file), ({"png": file}, file),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            write([run], **options)
        assert caught.value.path == str(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folders", [1, 2])
def test_resumed_run_is_combined(tmp_path, rng, folders):
    flags = {"checkpoint_dir": "/checkpoints"}
    first = make_events(rng, stop=60, flags=flags)
    second = make_events(rng, start=40, stop=100, flags=flags)
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


def test_runs_of_different_checkpoint_folders_are_separate(tmp_path, rng):
    first = write_run(tmp_path / "x" / "run", make_events(rng, flags={"checkpoint_dir": "/one"}))
    other = make_events(rng, start=40, stop=100, flags={"checkpoint_dir": "/two"})
    second = write_run(tmp_path / "y" / "run", other)
    assert [run.name for run in read_runs([first, second])] == ["x/run", "y/run"]


def test_journal_of_training_is_read(tmp_path, rng):
    folder = write_run(tmp_path / "run", [])
    journal = Journal([JsonLines(folder)])
    events = make_events(rng)
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


def test_run_of_another_mode_is_user_error(tmp_path, rng):
    events = [{**make_events(rng)[0], "mode": "evaluate"}]
    with pytest.raises(UserError) as caught:
        read_runs([write_run(tmp_path / "run", events)])
    error = caught.value
    assert (error.line, error.expected, error.found) == (1, "train", "evaluate")


@pytest.mark.parametrize("stamp", ["time", "seconds"])
def test_evaluations_and_checkpoints_are_placed_between_steps(tmp_path, rng, stamp):
    run = read_runs([write_run(tmp_path / "run", make_events(rng, stamp=stamp))])[0]
    assert len(run.of("evaluation")) == 5 and len(run.of("checkpoint")) == 2
    for event in run.of("evaluation") + run.of("checkpoint"):
        before = [e["clock"] for e in run.of("step") if e["step"] <= event["step"]]
        after = [e["clock"] for e in run.of("step") if e["step"] > event["step"]]
        assert max(before, default=0) <= event["clock"] <= min(after, default=np.inf)
