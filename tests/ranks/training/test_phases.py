"""NVTX ranges and --step_breakdown of runs of two ranks."""

import collections
import json
import os
import pathlib
import subprocess
import sysconfig
import types

import pytest

from ops.nvtx import ranges
from tests.e2e.training.test_nvtx import IN_EACH_STEP
from tests.gpu import build as cuda
from tests.support import launch
from training import breakdown, phases

STEPS, RANKS, BATCH, TEST_SAMPLES = 30, 2, 240, 3001
# (phase that must end, phase that starts after it), within one step.
IN_ORDER = (
    (phases.LOOKUP, phases.EXCHANGE_VECTORS),
    (phases.EXCHANGE_VECTORS, phases.DENSE),
    (phases.DENSE, phases.AVERAGE),
    (phases.AVERAGE, phases.UPDATE_DENSE),
    (phases.EXCHANGE_GRADIENTS, phases.UPDATE_ROWS),
)

Range = collections.namedtuple("Range", "start end")


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """A library that NVTX loads and that records all ranges; returns its path."""
    if not ranges.is_built():
        pytest.skip("the native op library was built without NVTX's headers")
    pip = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia" / "nvtx" / "include"
    places = [p for p in (cuda.cuda_include(), pip) if p and (p / "nvtx3/nvToolsExt.h").exists()]
    if not places:
        pytest.skip("nvtx3/nvToolsExt.h was not found: no tool can be built that listens")
    library = tmp_path_factory.mktemp("nvtx") / "librecorder.so"
    command = [
        os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror",
        "-isystem", places[0], "-o", library, launch.ROOT / "tests/native/nvtx_recorder.c", "-ldl",
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        pytest.skip(f"there is no C compiler {command[0]}: no tool can be built that listens")
    return library


@pytest.fixture(scope="module")
def phase_runs(recorder, small_dataset, tmp_path_factory):
    """Two runs with --step_breakdown, the second with a recorder.

    Returns their events (.staged, .recorded), the .printed output and folder (.folder) of the
    first, and the ranges of each rank (.records).
    """
    folder = tmp_path_factory.mktemp("runs")
    events, printed = {}, {}
    attached = {"NVTX_INJECTION64_PATH": str(recorder), "NVTX_RECORD": str(folder / "record")}
    staged = ("--step_breakdown", f"--profile_steps={STEPS - 2}-{STEPS - 1}")
    for name, flags, environment in (("staged", staged, {}), ("recorded", staged[:1], attached)):
        done = launch.run(
            RANKS, "main.py", f"--data_dir={small_dataset}", f"--run_dir={folder / name}",
            "--xla", "--compress", "--custom_interact", f"--early_stop={STEPS}", "--eval_in_last",
            f"--global_batch_size={BATCH}", "--embedding_dim=8", "--bottom_mlp=16,8",
            "--top_mlp=16,1", "--lr=0.5", "--warmup_steps=5", "--decay_start_step=0",
            "--auc_threshold=1", "--print_interval=1", "--nan_policy=skip",
            "--replicate_below_rows=8", "--embedding_optimizer=adagrad", *flags, **environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        with open(folder / name / "latest" / "journal.jsonl", encoding="utf-8") as lines:
            events[name] = [json.loads(line) for line in lines]
        printed[name] = done.stdout
    records = [read(path) for path in sorted(folder.glob("record.*"))]
    return types.SimpleNamespace(
        **events, printed=printed["staged"], folder=folder / "staged" / "latest", records=records
    )


def read(path):
    """Returns {name: [Range in order of their starts]} of one process."""
    started, ended = {}, {}
    for line in path.read_text().splitlines():
        words, _, name = line.partition("\t")
        kind, number, time, domain = words.split(" ")
        assert domain == "dlrm"
        assert number not in (ended if kind == "end" else started)
        (started if kind == "start" else ended)[number] = int(time), name
    assert ended.keys() == started.keys()
    found = collections.defaultdict(list)
    for number, (start, name) in sorted(started.items(), key=lambda item: item[1]):
        assert start <= ended[number][0]
        found[name].append(Range(start, ended[number][0]))
    return found


def test_every_phase_of_every_step_has_one_range(phase_runs):
    staged = {*breakdown.TRACING, *breakdown.STAGED}
    # A fused step also exchanges the ids of the next step; after a staged step it exchanges both.
    alone = [s for s in range(1, STEPS + 1) if s not in staged and (s == 1 or s - 1 in staged)]
    evaluated = -(-TEST_SAMPLES // BATCH)
    expected = dict.fromkeys(IN_EACH_STEP, STEPS)
    expected[phases.LOOKUP] += evaluated
    expected[phases.EXCHANGE_VECTORS] += evaluated
    expected[phases.DENSE_FORWARD] = evaluated
    expected[phases.EXCHANGE_IDS] = STEPS + len(alone) + evaluated
    expected[phases.READ] = STEPS + 1
    assert len(phase_runs.records) == RANKS
    for record in phase_runs.records:
        assert {name: len(found) for name, found in record.items()} == expected


def test_ranges_of_a_step_are_in_order(phase_runs):
    for record in phase_runs.records:
        before = 0
        for step in range(STEPS):
            of_step = {name: record[name][step] for name in IN_EACH_STEP}
            assert min(found.start for found in of_step.values()) >= before, step + 1
            for first, second in IN_ORDER:
                assert of_step[first].end <= of_step[second].start, (step + 1, first, second)
            assert record[phases.READ][step].end <= of_step[phases.LOOKUP].start
            before = max(found.end for found in of_step.values())
        # Ids arrive before their lookup.
        for ids, lookup in zip(record[phases.EXCHANGE_IDS], record[phases.LOOKUP]):
            assert ids.end <= lookup.start


def test_recorder_does_not_change_results(phase_runs):
    def results(events):
        losses = [event["loss"] for event in events if event["event"] == "step"]
        scores = [(e["auc"], e["log_loss"]) for e in events if e["event"] == "evaluation"]
        return losses, scores

    losses, scores = results(phase_runs.staged)
    assert len(losses) == STEPS
    assert len(scores) == 1
    assert (losses, scores) == results(phase_runs.recorded)


def test_breakdown_is_printed_and_recorded(phase_runs):
    (event,) = [event for event in phase_runs.staged if event["event"] == "breakdown"]
    assert len(event["phases"]) == 9
    for phase in event["phases"]:
        assert phase["name"] in phase_runs.printed
    total = sum(phase["milliseconds"] for phase in event["phases"])
    assert event["step_milliseconds"] == pytest.approx(total)


def test_profile_is_written(phase_runs):
    (profile,) = phase_runs.folder.glob("plugins/profile/*/*.xplane.pb")
    assert profile.stat().st_size > 1000
    assert list((phase_runs.folder / "tensorboard").iterdir())
