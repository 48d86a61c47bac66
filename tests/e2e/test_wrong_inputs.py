"""Every command against every kind of wrong file: one clear line, no file of the user's changed.

Each case replaces one file that a command reads, and runs the command as a user would.
"""

import os
import random
import re
import shutil
import socket

import pytest

from tests.e2e import workspace

TRAIN = [*workspace.MODEL, "--run_dir=out/runs", "--early_stop=3"]
SCORE = ["--run_dir=out/runs"]
CHECKPOINT = "checkpoints/step-000000010"
_COLUMNS = {
    "three": ["metadata.json", "label.bin", "dense.bin", "category.bin"],
    "tables": ["metadata.json", "label.bin", "dense.bin", "category_1.bin"],
    "dle": ["label.bin", "numerical.bin", "cat_1.bin"],
}
_DAY_FILES = [f"torchrec/day_0_{name}.npy" for name in ("dense", "sparse", "labels")]
#: {data: the files that a reader of it opens}.
DATA = {
    **{
        name: [*(f"{name}/train/{file}" for file in files), f"{name}/test/{files[0]}"]
        for name, files in _COLUMNS.items()
    },
    "torchrec": [*_DAY_FILES, "torchrec/vocab_sizes.json"],
    "raw": ["raw/train_data.bin", "raw/vocab_sizes.json", "raw/generator.json"],
}
DATA["dle"].append("dle/feature_spec.yaml")
_CHECKPOINT_FILES = [
    f"{CHECKPOINT}/{name}"
    for name in ("manifest.json", "SHA256SUMS", "table_01.rank_0.npy", "dense.00.kernel.npy")
]
_PREPROCESS = ["--input", "days", "--output", "out/made", *workspace.DAYS]
#: {name: (program, arguments, the files that it reads)}.
COMMANDS = {
    **{f"train {d}": ("main.py", [f"--data_dir={d}", *TRAIN], f) for d, f in DATA.items()},
    **{f"validate {d}": ("-m dataset.validate", [d], files) for d, files in DATA.items()},
    **{
        f"convert {d}": (
            "-m dataset.convert",
            [d, "out/made", "--layout", "raw" if d == "three" else "three_file"],
            files,
        )
        for d, files in DATA.items()
    },
    "split": ("split_bin.py", ["raw/train_data.bin", "out/made"], DATA["raw"][:2]),
    "preprocess": ("preprocess.py", [*_PREPROCESS, "--frequency_threshold", "1"],
                   ["days/day_0", "days/day_1"]),
    "preprocess by dictionary": (
        "preprocess.py", [*_PREPROCESS, "--dictionary", "done/dictionary"],
        ["done/dictionary/dictionary.json", "done/dictionary/C1.npy"],
    ),
    "restore": ("main.py", ["--data_dir=three", *TRAIN, "--restore=checkpoints"],
                _CHECKPOINT_FILES),
    "evaluate": ("main.py", ["--mode=evaluate", "--data_dir=three", *SCORE,
                             "--restore=checkpoints"], _CHECKPOINT_FILES),
    "export": ("main.py", ["--mode=export", "--restore=checkpoints", "--export_dir=out/made"],
               _CHECKPOINT_FILES),
    "inference": ("main.py", ["--mode=inference_benchmark", "--restore=checkpoints",
                              "--batch_sizes=8", *SCORE], _CHECKPOINT_FILES),
    "placement": ("main.py", ["--data_dir=three", *TRAIN, "--placement=placement.json"],
                  ["placement.json"]),
    "plan placement": ("main.py", ["--mode=plan", "--data_dir=three",
                                   "--placement=placement.json", "--embedding_dim=4",
                                   "--bottom_mlp=4", "--top_mlp=4,1"],
                       ["placement.json", "three/train/metadata.json"]),
    "plan sizes": ("main.py", ["--mode=plan", "--vocab_sizes=sizes.json"], ["sizes.json"]),
    "synthetic sizes": ("main.py", ["--use_synthetic_dataset", *TRAIN, "--vocab_sizes=sizes.json"],
                        ["sizes.json"]),
    "flagfile": ("main.py", ["--flagfile=run.flags", "--data_dir=three", "--early_stop=2",
                             "--run_dir=out/runs"], ["run.flags"]),
    "report": ("-m training.report", ["one_run", "--output", "out/report.html"],
               ["one_run/journal.jsonl"]),
    "verify": ("-m training.checkpoint", ["verify", "checkpoints"], _CHECKPOINT_FILES),
    "inspect": ("-m training.checkpoint", ["inspect", "checkpoints"], _CHECKPOINT_FILES[:2]),
    "export arrays": ("-m training.checkpoint", ["export", "checkpoints", "out/made"],
                      _CHECKPOINT_FILES),
}  # fmt: skip


def _special(make):
    def replace(path):
        path.unlink()
        make(path)

    return replace


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's address has 107 characters at most
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def _bytes(change):
    def replace(path):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(change(data))

    return replace


#: {kind of wrong file: what makes it of a right one}.
WRONG = {
    "missing": lambda path: path.unlink(),
    "dangling link": _special(lambda path: path.symlink_to("nowhere")),
    "folder": _special(lambda path: path.mkdir()),
    "pipe": _special(os.mkfifo),
    "socket": _special(_socket),
    "endless device": _special(lambda path: path.symlink_to("/dev/zero")),
    "empty": _bytes(lambda data: b""),
    "cut": _bytes(lambda data: data[: len(data) // 2 - 1]),
    "scrambled": _bytes(lambda data: random.Random(len(data)).randbytes(len(data))),
    "deep": _bytes(lambda data: b"[" * 100_000),
    "long": _bytes(lambda data: b'{"' + b"x" * (10 << 20) + b'": 1}'),
    "list": _bytes(lambda data: b"[1, 2]"),
    "object": _bytes(lambda data: b"{}"),
    "not a number": _bytes(lambda data: re.sub(rb"\d+", b"NaN", data, count=1)),
    "not utf-8": _bytes(lambda data: b"\xff\xfe" + data),
}
_TEXT = (".json", ".yaml", ".flags", ".jsonl", "SHA256SUMS")
_TEXT_KINDS = ("deep", "long", "list", "object", "not a number", "not utf-8")
_RESUME = ["--data_dir=three", *workspace.MODEL, "--run_dir=out/runs", "--epochs=2",
           "--checkpoint_dir=checkpoints"]  # fmt: skip
#: (file, kind) with which a command does its work all the same.
FINE = {
    # Where the test split has no metadata, the training split's says what it holds.
    ("three/test/metadata.json", "missing"),
    ("tables/test/metadata.json", "missing"),
    # A file next to the data that it does without.
    ("raw/generator.json", "missing"),
    ("raw/generator.json", "dangling link"),
    # [1, 2] are the sizes of two tables.
    ("sizes.json", "list"),
    # A run that was killed leaves half a line.
    ("one_run/journal.jsonl", "cut"),
}


def _cases():
    for command, (_, _, files) in COMMANDS.items():
        for file in files:
            for kind in WRONG:
                if kind in _TEXT_KINDS and not file.endswith(_TEXT):
                    continue
                if (file, kind) in FINE:
                    continue
                yield pytest.param(command, file, kind, id=f"{command}-{file}-{kind}")


def check_refused(result):
    """Asserts that a command ended by one clear line."""
    assert not result.timed_out, "hangs"
    assert "Traceback" not in result.err + result.out, result.err
    assert result.code == 2, (result.code, result.err, result.out)
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert lines, "no message"
    # argparse prints the usage before its line.
    assert len(lines) <= 3 or lines[0].startswith("usage:"), result.err
    assert max(map(len, lines)) < 1000, result.err


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("command", "file", "kind"), _cases())
def test_wrong_file_is_one_line(server, here, command, file, kind):
    program, arguments, _ = COMMANDS[command]
    WRONG[kind](here / file)
    before = workspace.contents(here)
    result = server.run(program, *arguments, cwd=here, timeout=20)
    after = {k: v for k, v in workspace.contents(here).items() if k == "out" or k[:4] != "out/"}
    assert after == before, "files of the user's have changed"
    if command == "verify":  # What is damaged is its output.
        assert result.out.startswith("damaged: ") and not result.err
        result = result._replace(err=result.out)
    check_refused(result)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("file", _CHECKPOINT_FILES)
@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind not in _TEXT_KINDS])
def test_damaged_checkpoint_is_named_and_passed_over(server, here, file, kind):
    """A run whose only checkpoint is damaged says so and begins with the initial weights."""
    WRONG[kind](here / file)
    result = server.run("main.py", *_RESUME, cwd=here, timeout=40)
    assert "Traceback" not in result.err + result.out, result.err
    assert not result.timed_out
    assert "step-000000010" in result.err + result.out, result
    if result.code:
        check_refused(result)


@pytest.mark.parametrize(("file", "kind"), sorted(FINE))
def test_files_that_are_not_needed_are_not_missed(server, here, file, kind):
    WRONG[kind](here / file)
    for program, arguments, files in COMMANDS.values():
        if file in files:
            result = server.run(program, *arguments, cwd=here, timeout=40)
            assert result.code == 0, result
            shutil.rmtree(here / "out")
            (here / "out").mkdir()
