"""JSON files with damaged values: readers accept them unchanged or raise a one-line error."""

import hashlib
import json

import numpy as np
import pytest

from model.embedding.placement import PlacementError
from model.embedding.placement_file import read_placement
from planner.arguments import read_vocab_sizes
from storage.digests import checksum_text
from storage.structured import StructureError
from tests.support.damaged_json import TEXTS, variants
from tests.support.training.telemetry.report.journals import END, make_events, write_run
from training.checkpoint import checksums, completion_records, inspection, manifest, verify
from training.checkpoint.errors import DamagedError
from training.checkpoint.npy_files import ArrayFiles
from training.checkpoint.reader import Reader
from training.runtime.errors import UserError
from training.runtime.watchdog_messages import read_states
from training.telemetry.report import facts, published
from training.telemetry.report.plots import make_plots
from training.telemetry.report.runs import read_runs

VOCAB, DIMENSION = [5, 3], 2


def one_line(error):
    text = str(error)
    assert "\n" not in text and len(text) < 2000, text[:300]
    return text


def some_variants(value, rng, most=300):
    found = list(variants(value))
    return [found[index] for index in rng.permutation(len(found))[:most]]


def count_refused(value, rng, path, read, refusals, check=lambda found, what: None, texts=TEXTS,
                  write=lambda path, data: path.write_bytes(data)):  # fmt: skip
    """Reads damaged variants of a JSON file; returns how many were refused.

    Args:
        value: the intact content; `check` is called for each variant that is accepted.
        path: the file or its folder, which every error names.
        read: function () -> content.
        refusals: class of the errors.
        texts: contents that must be refused.
    """
    refused = 0
    for what, changed in some_variants(value, rng):
        write(path, json.dumps(changed).encode())
        try:
            found = read()
        except refusals as error:
            assert str(path) in one_line(error), what
            refused += 1
        else:
            check(found, what)
    for text in texts:
        write(path, text)
        with pytest.raises(refusals) as caught:
            read()
        assert str(path) in one_line(caught.value)
    return refused


def write_manifest(folder, data):
    """Replaces the manifest of a checkpoint and its checksum."""
    (folder / manifest.NAME).write_bytes(data)
    digests = checksums.read_checksums(folder)
    digests[manifest.NAME] = hashlib.sha256(data).hexdigest()
    (folder / checksums.CHECKSUMS).write_text(checksum_text(digests))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, seed_of):
    """(folder, its manifest, its tables): one table on one rank, one sharded over two."""
    folder = tmp_path_factory.mktemp("checkpoint")
    rng = np.random.default_rng(seed_of("damaged_files"))
    tables = [rng.standard_normal((rows, DIMENSION), np.float32) for rows in VOCAB]
    arrays = ArrayFiles(folder)
    shards = []
    for table, offset, stride in ((0, 0, 2), (0, 1, 2), (1, 0, 1)):
        values = np.ascontiguousarray(tables[table][offset::stride])
        name = f"table_{table:02d}.rank_{offset}.npy"
        entry = arrays.write(name, values.shape, "float32", [values])
        shards.append({"state": "table", "table": table, "row_offset": offset,
                       "row_stride": stride, "rows": len(values), "column_start": 0,
                       "column_end": DIMENSION, **entry})  # fmt: skip
    dense = np.ones((2, 3), np.float32)
    content = {
        "format": manifest.FORMAT, "version": manifest.VERSION, "step": 7, "epoch": 0,
        "evaluations": [{"step": 7, "auc": 0.6, "log_loss": 0.5, "samples": 40, "seconds": 1.0}],
        "flags": {"embedding_dim": DIMENSION, "bottom_mlp": "3,2", "top_mlp": "1", "lr": None,
                  "ablation": "none", "global_batch_size": 8, "loss_scale": "auto"},
        "data": {"layout": "synthetic", "dense_transform": "none", "vocab_sizes": VOCAB},
        "versions": {"numpy": "x", "cores": 2, "gpu": None}, "written": "2026-01-01T00:00:00Z",
        "ranks": 2, "vocab_sizes": VOCAB, "embedding_dim": DIMENSION,
        "dense": {"00.kernel": arrays.write("dense.00.npy", dense.shape, "float32", [dense])},
        "optimizer": {"00.iteration": arrays.write("step.npy", (), "int64", [np.int64(3)])},
        "loss_scale": {"loss_scale": arrays.write("scale.npy", (), "float32", [np.float32(1)])},
        "tables": shards,
    }  # fmt: skip
    (folder / checksums.CHECKSUMS).write_text(checksum_text(arrays.digests))
    write_manifest(folder, json.dumps(content).encode())
    return folder, content, tables


def read_checkpoint(folder):
    """Reads a checkpoint as the programs do; returns its tables."""
    read, _ = manifest.read(folder)
    inspection.as_text(inspection.describe(folder, read))
    reader = Reader(folder, read)
    for group in ("dense", "optimizer", "loss_scale"):
        for name in read[group]:
            reader.named(group, name)
    for name in ("bottom_mlp", "global_batch_size"):
        manifest.flag(read, name, folder)
    return [np.concatenate(list(reader.table(t))) for t in range(len(read["vocab_sizes"]))]


def test_intact_manifest_is_accepted(checkpoint):
    folder, content, tables = checkpoint
    for found, table in zip(read_checkpoint(folder), tables):
        np.testing.assert_array_equal(found, table)
    content["evaluations"][0]["auc"] = float("nan")  # as older versions wrote it
    write_manifest(folder, json.dumps(content).encode())
    assert manifest.read(folder)[0]["evaluations"][0]["auc"] is None
    content["evaluations"][0]["auc"] = 0.6


def test_damaged_manifest_is_refused_or_changes_nothing(checkpoint, rng):
    folder, content, tables = checkpoint
    accepted = []

    def check(found, what):
        for table, values in zip(found, tables):
            np.testing.assert_array_equal(values[: len(table)], table, err_msg=what)
        verify.find_problems(folder)
        accepted.append(what)

    refused = count_refused(content, rng, folder, lambda: read_checkpoint(folder), DamagedError,
                            check, write=write_manifest)  # fmt: skip
    assert len(accepted) > 3 and refused > 100
    assert verify.find_problems(folder)


def test_damaged_completion_record_is_refused(checkpoint, tmp_path, rng):
    _, content, _ = checkpoint
    digests = {entry["file"]: "0" * 64 for entry in content["tables"]}
    record = {"digests": digests, "tables": content["tables"], "bytes": 99,
            "named": {"dense": content["dense"]}}  # fmt: skip
    path = completion_records.record_path(tmp_path, 0)

    def read():
        completion_records.await_ranks(tmp_path, 1, 5, None)

    assert count_refused(record, rng, path, read, UserError) > 50


def test_damaged_placement_is_refused_or_valid(tmp_path, rng):
    run = {"vocab_sizes": (9, 4, 7), "dimension": 4, "ranks": 2}
    path = tmp_path / "placement.json"

    def check(found, what):
        covered = sum(s.rows for s in found.shards if s.kind != "replicated")
        assert covered <= 2 * sum(run["vocab_sizes"]), what

    content = {
        "tables": [
            {"table": 2, "kind": "column", "ranks": [1, 0]},
            {"table": 0, "kind": "table", "rank": 1},
            {"table": 1, "kind": "row"},
        ]
    }
    read = lambda: read_placement(path, **run)  # noqa: E731
    assert count_refused(content, rng, path, read, PlacementError, check) > 50


def test_damaged_vocabulary_file_is_refused_or_valid(tmp_path, rng):
    path = tmp_path / "vocab_sizes.json"

    def check(found, what):
        assert all(type(size) is int and size > 0 for size in found), what

    for content in ([3, 4, 5], {"vocab_sizes": [3, 4, 5], "samples": 7}):
        assert count_refused(
            content, rng, path, lambda: read_vocab_sizes(str(path)), ValueError, check
        )


def show(run):
    """Does everything that a report does, except drawing."""
    make_plots([run])
    facts.summary([run]), facts.settings([run]), facts.evaluations(run), facts.checkpoints(run)
    if run.of("breakdown"):
        facts.phases(run)
    published.compare(run)


@pytest.mark.parametrize("kind", ["config", "breakdown", "step", "evaluation", "memory",
                                  "checkpoint", "message", "end"])  # fmt: skip
def test_damaged_event_is_refused_or_shown(tmp_path, kind, rng):
    flags = {"checkpoint_dir": "c", "embedding_dim": 8, "bottom_mlp": "8", "amp_dtype": "auto"}
    data = {"layout": "raw", "train_samples": 100, "test_samples": 10, "vocab_sizes": [3, 4]}
    events = [*make_events(rng, stop=40, flags=flags, data=data), {"event": "message", "text": "x"},
              {"event": "end", "time": 9.0, **END}]  # fmt: skip
    folder = write_run(tmp_path / "run", [])
    path = folder / "journal.jsonl"
    at = next(i for i, event in enumerate(events) if event["event"] == kind)
    lines = [json.dumps(event) for event in events]

    def write(path, line):
        path.write_text("\n".join([*lines[:at], line.decode(), *lines[at + 1 :], ""]))

    def check(runs, what):
        show(*runs)

    read = lambda: read_runs([folder])  # noqa: E731
    assert count_refused(events[at], rng, path, read, UserError, check, (), write) > 15


def test_damaged_result_is_refused_or_shown(tmp_path, rng):
    folder = write_run(tmp_path / "run", make_events(rng, stop=40))

    def check(runs, what):
        show(*runs)

    read = lambda: read_runs([folder])  # noqa: E731
    assert count_refused(END, rng, folder / "result.json", read, UserError, check) > 15


def test_journal_with_nan_and_infinity_is_read(tmp_path, rng):
    events = make_events(rng, stop=40)
    folder = write_run(tmp_path / "run", [])
    scores = [event for event in events if event["event"] == "evaluation"]
    scores[0]["auc"] = scores[1]["log_loss"] = float("nan")
    events.append({"event": "message", "text": 'a "NaN", -Infinity and \\'})
    text = "".join(json.dumps(event) + "\n" for event in events)
    assert "NaN," in text
    (folder / "journal.jsonl").write_text(text)
    (folder / "result.json").write_text(json.dumps({**END, "loss": float("-inf")}))
    (run,) = read_runs([folder])
    assert [np.isnan(e["auc"]) for e in run.of("evaluation")] == [True, False]
    assert run.of("message")[0]["text"] == events[-1]["text"]
    assert run.result["loss"] is None
    show(run)
    assert facts.evaluations(run)[0][2] == facts.NONE


def test_damaged_watchdog_message_is_refused(rng):
    state = {"rank": 1, "pid": 7, "host": "h", "activity": "step 3", "count": 2, "idle": 0.5,
             "paused": False, "leaving": False}  # fmt: skip
    line = json.dumps(state).encode() + b"\n"
    assert list(read_states(line + line + b'{"rank"', 2)) == [state, state]
    assert list(read_states(b"\n", 2)) == list(read_states(b"", 2)) == []
    refused = 0
    for what, changed in some_variants(state, rng):
        try:
            (found,) = read_states(json.dumps(changed).encode() + b"\n", 2)
        except StructureError as error:
            one_line(error)
            refused += 1
        else:
            assert found.keys() == state.keys(), what
            assert all(type(found[name]) in (int, float, str, bool) for name in found), what
    assert refused > 60
    for text in TEXTS:
        if text:
            with pytest.raises(StructureError):
                list(read_states(text + b"\n", 2))
    for rank in (0, 2, 3):
        with pytest.raises(StructureError, match="rank: expected 1 to 1"):
            list(read_states(json.dumps({**state, "rank": rank}).encode() + b"\n", 2))
    with pytest.raises(StructureError, match="expected at most 65536 bytes in a line"):
        list(read_states(b"x" * 70_000, 2))
