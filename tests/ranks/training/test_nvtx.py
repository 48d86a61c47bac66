"""What a tool that listens for NVTX ranges sees of a run; and that it changes no byte of it."""

import collections
import json
import os
import pathlib
import subprocess
import sysconfig
import types

import pytest

from ops.nvtx import ranges
from tests.gpu import build as cuda
from tests.support import launch
from tests.support.ops.graphs import ancestors
from tests.support.training import small_model
from training import breakdown, phases

STEPS, RANKS, BATCH, TEST_SAMPLES = 30, 2, 240, 3001
IN_EACH_STEP = (
    phases.LOOKUP, phases.EXCHANGE_VECTORS, phases.DENSE, phases.AVERAGE, phases.UPDATE_DENSE,
    phases.EXCHANGE_GRADIENTS, phases.UPDATE_ROWS,
)  # fmt: skip
# What must be over before what begins, within one step.
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
    """A library that NVTX loads and that writes down what it is told; returns its path."""
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
def runs(recorder, small_dataset, tmp_path_factory):
    """The README's job under nsys, small, heard and unheard: events of both, each rank's ranges.

    Some of its steps are taken apart, as by --step_breakdown; it evaluates once, at the end.
    """
    folder = tmp_path_factory.mktemp("runs")
    events = {}
    listening = {"NVTX_INJECTION64_PATH": str(recorder), "NVTX_RECORD": str(folder / "record")}
    for name, environment in (("heard", listening), ("unheard", {})):
        done = launch.run(
            RANKS, "main.py", f"--data_dir={small_dataset}", f"--run_dir={folder / name}",
            "--xla", "--compress", "--custom_interact", f"--early_stop={STEPS}", "--eval_in_last",
            f"--global_batch_size={BATCH}", "--embedding_dim=8", "--bottom_mlp=16,8",
            "--top_mlp=16,1", "--lr=0.5", "--warmup_steps=5", "--decay_start_step=0",
            "--auc_threshold=1", "--print_interval=1", "--step_breakdown", "--nan_policy=skip",
            **environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        with open(folder / name / "latest" / "journal.jsonl", encoding="utf-8") as lines:
            events[name] = [json.loads(line) for line in lines]
    records = [read(path) for path in sorted(folder.glob("record.*"))]
    return types.SimpleNamespace(**events, records=records)


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


def test_every_phase_of_every_step_is_there_once(runs):
    staged = {*breakdown.TRACING, *breakdown.STAGED}
    # A whole step brings the ids of the next, unless there was none before it that did so.
    alone = [s for s in range(1, STEPS + 1) if s not in staged and (s == 1 or s - 1 in staged)]
    evaluated = -(-TEST_SAMPLES // BATCH)
    expected = dict.fromkeys(IN_EACH_STEP, STEPS)
    expected[phases.LOOKUP] += evaluated
    expected[phases.EXCHANGE_VECTORS] += evaluated
    expected[phases.DENSE_FORWARD] = evaluated
    expected[phases.EXCHANGE_IDS] = STEPS + len(alone) + evaluated
    expected[phases.READ] = STEPS + 1
    assert len(runs.records) == RANKS
    for record in runs.records:
        assert {name: len(found) for name, found in record.items()} == expected


def test_the_phases_of_a_step_come_in_order(runs):
    for record in runs.records:
        before = 0
        for step in range(STEPS):
            of_step = {name: record[name][step] for name in IN_EACH_STEP}
            assert min(found.start for found in of_step.values()) >= before, step + 1
            for first, second in IN_ORDER:
                assert of_step[first].end <= of_step[second].start, (step + 1, first, second)
            assert record[phases.READ][step].end <= of_step[phases.LOOKUP].start
            before = max(found.end for found in of_step.values())
        # No id travels later than it is needed.
        for ids, lookup in zip(record[phases.EXCHANGE_IDS], record[phases.LOOKUP]):
            assert ids.end <= lookup.start


def test_a_tool_that_listens_changes_no_byte(runs):
    def results(events):
        losses = [event["loss"] for event in events if event["event"] == "step"]
        scores = [(e["auc"], e["log_loss"]) for e in events if e["event"] == "evaluation"]
        return losses, scores

    losses, scores = results(runs.heard)
    assert len(losses) == STEPS
    assert len(scores) == 1
    assert (losses, scores) == results(runs.unheard)


def test_what_may_run_side_by_side_still_may(monkeypatch):
    """No range waits for another but for those whose outputs its own inputs come from."""
    monkeypatch.setattr(ranges, "is_tool_attached", lambda: True)
    step = small_model.build(1, policy="row", compress=True)[-1]
    small_model.train(step, small_model.batches(2))
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
        # Not for the dense gradients.
        phases.EXCHANGE_GRADIENTS: {phases.LOOKUP, phases.EXCHANGE_VECTORS},
        phases.UPDATE_ROWS: {*IN_EACH_STEP[:2], phases.EXCHANGE_GRADIENTS},
    }
    # The bottom MLP needs no vectors.
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
def test_one_rank_trains_to_the_same_bytes(monkeypatch, options):
    made, trained = small_model.batches(6), []
    for heard in (False, True):
        monkeypatch.setattr(ranges, "is_tool_attached", lambda heard=heard: heard)
        *owners, step = small_model.build(3, **options)
        losses = small_model.train(step, made)
        trained.append((losses, [array.tobytes() for array in small_model.state(*owners)]))
        assert step.traces() == 1
    assert trained[0] == trained[1]
    assert len(set(trained[0][0])) > 1
