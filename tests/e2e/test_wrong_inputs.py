"""Every command with every kind of wrong file: it prints one line and changes no other file.

Each case replaces one file that the command reads.
"""

import os
import re
import shutil
import socket

import pytest

from tests.e2e import workspace
from tests.e2e.workspace import check_refused, contents_without_out

TRAIN = [*workspace.MODEL, "--run_dir=out/runs", "--early_stop=3"]
SCORE = ["--run_dir=out/runs"]
CHECKPOINT = "checkpoints/step-000000010"
_COLUMNS = {
    "three": ["metadata.json", "label.bin", "dense.bin", "category.bin"],
    "tables": ["metadata.json", "label.bin", "dense.bin", "category_1.bin"],
    "dle": ["label.bin", "numerical.bin", "cat_1.bin"],
}
_DAY_FILES = [f"torchrec/day_0_{name}.npy" for name in ("dense", "sparse", "labels")]
#: {dataset: the files that its reader opens}.
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
#: {name: (program, arguments, files that it reads)}.
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
    def replace(path, rng):
        path.unlink()
        make(path)

    return replace


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's address has at most 107 characters
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def _bytes(change):
    def replace(path, rng):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(change(data, rng))

    return replace


def _half(data, rng):
    half = data[: len(data) // 2 - 1]
    if half.isascii() and b"\t" in half:  # A line cut in its last field would be valid.
        return half[: half.rindex(b"\n", 0, -9) + 3]
    return half


#: {kind of wrong file: function (path, rng) that makes it from a good one}.
WRONG = {
    "missing": lambda path, rng: path.unlink(),
    "dangling link": _special(lambda path: path.symlink_to("nowhere")),
    "folder": _special(lambda path: path.mkdir()),
    "pipe": _special(os.mkfifo),
    "socket": _special(_socket),
    "endless device": _special(lambda path: path.symlink_to("/dev/zero")),
    "empty": _bytes(lambda data, rng: b""),
    "cut": _bytes(_half),
    "scrambled": _bytes(lambda data, rng: rng.bytes(len(data))),
    "deep": _bytes(lambda data, rng: b"[" * 100_000),
    "long": _bytes(lambda data, rng: b'{"' + b"x" * (10 << 20) + b'": 1}'),
    "list": _bytes(lambda data, rng: b"[1, 2]"),
    "object": _bytes(lambda data, rng: b"{}"),
    "not a number": _bytes(lambda data, rng: re.sub(rb"\d+", b"NaN", data, count=1)),
    "not utf-8": _bytes(lambda data, rng: b"\xff\xfe" + data),
}
_TEXT = (".json", ".yaml", ".flags", ".jsonl", "SHA256SUMS")
_TEXT_KINDS = ("deep", "long", "list", "object", "not a number", "not utf-8")
# validate and verify open datasets and checkpoints with the same code as these commands.
_FEW_KINDS = ("missing", "pipe", "cut", "scrambled", "not utf-8")
_SAME_READER = ("train ", "convert ", "evaluate", "export", "inference")
_RESUME = ["--data_dir=three", *workspace.MODEL, "--run_dir=out/runs", "--epochs=2",
           "--checkpoint_dir=checkpoints"]  # fmt: skip
#: (file, kind) that commands accept.
FINE = {
    # The training split's metadata describes the test split too.
    ("three/test/metadata.json", "missing"),
    ("tables/test/metadata.json", "missing"),
    # Optional.
    ("raw/generator.json", "missing"),
    ("raw/generator.json", "dangling link"),
    # A list of two table sizes.
    ("sizes.json", "list"),
    # A killed run leaves an incomplete last line.
    ("one_run/journal.jsonl", "cut"),
}


def _cases():
    for command, (_, _, files) in COMMANDS.items():
        for file in files:
            for kind in WRONG:
                if kind in _TEXT_KINDS and not file.endswith(_TEXT):
                    continue
                if command.startswith(_SAME_READER) and kind not in _FEW_KINDS:
                    continue
                if (file, kind) in FINE:
                    continue
                yield pytest.param(command, file, kind, id=f"{command}-{file}-{kind}")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("command", "file", "kind"), list(_cases()))
def test_command_refuses_wrong_file_in_one_line(server, here, rng, command, file, kind):
    program, arguments, _ = COMMANDS[command]
    WRONG[kind](here / file, rng)
    before = contents_without_out(here)
    result = server.run(program, *arguments, cwd=here)
    assert contents_without_out(here) == before, "the command changed its user's files"
    if command == "verify":  # Prints its finding on standard output.
        assert result.out.startswith("damaged: ") and not result.err
        result = result._replace(err=result.out)
    check_refused(result)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("file", _CHECKPOINT_FILES)
@pytest.mark.parametrize("kind", ["missing", "cut", "scrambled"])
def test_run_skips_damaged_checkpoint_and_names_it(server, here, rng, file, kind):
    WRONG[kind](here / file, rng)
    result = server.run("main.py", *_RESUME, cwd=here)
    assert "Traceback" not in result.err + result.out, result.err
    assert not result.timed_out
    assert "step-000000010" in result.err + result.out, result
    if result.code:
        check_refused(result)


@pytest.mark.parametrize(("file", "kind"), sorted(FINE))
def test_commands_run_without_optional_files(server, here, rng, file, kind):
    WRONG[kind](here / file, rng)
    for program, arguments, files in COMMANDS.values():
        if file in files:
            result = server.run(program, *arguments, cwd=here)
            assert result.code == 0, result
            shutil.rmtree(here / "out")
            (here / "out").mkdir()
