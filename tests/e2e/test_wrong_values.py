"""Every command with wrong values of its flags, and with paths that it cannot use.

tests/unit/training/test_flags.py tries every flag of main.py in the parser alone.
"""

import os
import re

import pytest

from tests.e2e import workspace
from tests.e2e.test_wrong_inputs import TRAIN
from tests.e2e.workspace import check_refused, contents_without_out
from training import cli
from training.config import SETTINGS
from training.runtime.errors import UserError

_TRAIN = ["--data_dir=three", *TRAIN]
_PREPROCESS = ["--input", "days", "--output", "out/made", *workspace.DAYS]
_SYNTHETIC = ["--output", "out/made", "--train_samples", "9", "--test_samples", "9"]
#: {command: (program, arguments with which it works)}.
COMMANDS = {
    "train": ("main.py", _TRAIN),
    "plan": ("main.py", ["--mode=plan", "--vocab_sizes=30,20"]),
    "inference": ("main.py", ["--mode=inference_benchmark", "--vocab_sizes=30,20",
                              "--run_dir=out/r", "--batch_sizes=4", "--embedding_dim=4",
                              "--bottom_mlp=4", "--top_mlp=1"]),
    "random batches": ("main.py", ["--use_synthetic_dataset", "--vocab_sizes=30,20", *TRAIN]),
    "split": ("split_bin.py", ["raw/train_data.bin", "out/made"]),
    "validate": ("-m dataset.validate", ["raw"]),
    "convert": ("-m dataset.convert", ["raw", "out/made", "--layout", "three_file"]),
    "multihot": ("-m dataset.multihot", ["raw", "out/made", "--hotness", "2,1,3"]),
    "synthetic": ("-m dataset.synthetic", _SYNTHETIC),
    "crossed": ("-m dataset.synthetic", [*_SYNTHETIC, "--labels", "crossed"]),
    "preprocess": ("preprocess.py", _PREPROCESS),
    "restart": ("-m training.restart", ["--", "true", "--checkpoint_dir=out"]),
    "report": ("-m training.report", ["one_run", "--output", "out/report.html"]),
    "inspect": ("-m training.checkpoint", ["inspect", "checkpoints"]),
    "verify": ("-m training.checkpoint", ["verify", "checkpoints"]),
    "evaluate": ("main.py", ["--mode=evaluate", "--data_dir=three", "--restore=checkpoints",
                             "--run_dir=out/r"]),
    "export": ("main.py", ["--mode=export", "--restore=checkpoints", "--export_dir=out/made"]),
    "export arrays": ("-m training.checkpoint", ["export", "checkpoints", "out/made"]),
}  # fmt: skip

NO_NUMBER = ("", "abc", "nan", "1e400", "1,,2", "5 6")
# A flag may accept or refuse these.
EXTREME = ("-1", "0", "99999999999999999999", "2147483648")
_LIST = ("", "abc", "1,,2", "1,0", "-3", "1.5", "1;2", "99999999999999999999")
_SIZE = ("", "abc", "-1", "nan", "1e400GiB", "5 apples")
#: {(command, flag): wrong values}, for flags that are not plain numbers.
TEXTS = {
    ("train", "bottom_mlp"): _LIST,
    ("train", "top_mlp"): _LIST,
    ("train", "loss_scale"): ("", "abc", "nan", "0", "-1", "inf"),
    ("train", "memory_per_rank"): _SIZE,
    ("train", "profile_steps"): ("", "abc", "0-3", "5-2", "3", "1-2-3"),
    ("train", "data_layout"): ("", "nonsense"),
    ("train", "placement"): ("", "nonsense"),
    ("plan", "vocab_sizes"): (*_LIST, "nonsense"),
    ("plan", "device"): ("", "nonsense"),
    ("plan", "memory_per_rank"): _SIZE,
    ("random batches", "vocab_sizes"): (*_LIST, "nonsense"),
    ("random batches", "hotness"): (*_LIST, "1,2,3", "nonsense"),
    ("inference", "batch_sizes"): _LIST,
    ("split", "vocab_sizes"): _LIST,
    ("validate", "vocab_sizes"): _LIST,
    ("validate", "layout"): ("", "nonsense"),
    ("convert", "vocab_sizes"): _LIST,
    ("convert", "source_layout"): ("", "nonsense"),
    ("convert", "layout"): ("", "nonsense", "torchrec"),
    ("multihot", "hotness"): (*_LIST, "mlperf"),
    ("multihot", "distribution"): ("", "nonsense"),
    ("multihot", "pooling"): ("", "nonsense"),
    ("multihot", "vocab_sizes"): _LIST,
    ("multihot", "source_layout"): ("", "nonsense"),
    ("multihot", "layout"): ("", "nonsense", "torchrec_multi_hot"),
    ("synthetic", "vocab_sizes"): _LIST,
    ("crossed", "hotness"): (*_LIST, "nonsense"),
    ("crossed", "labels"): ("", "nonsense"),
    ("crossed", "pooling"): ("", "nonsense", "sum,mean"),
    ("preprocess", "memory_limit"): _SIZE,
    ("preprocess", "max_rejects"): ("", "abc", "-1", "nan", "101%", "5 apples"),
    ("preprocess", "test_fraction"): ("", "abc", "-1", "nan", "0", "1", "150%"),
    ("preprocess", "train_days"): ("", "abc", "5-2", "1,,2", "-1", "0-99999999999"),
    ("preprocess", "test_day"): ("", "abc", "-1", "1.5"),
    ("preprocess", "engine"): ("", "nonsense"),
    ("preprocess", "spark_conf"): ("", "abc", "=x"),
}
#: {command: its flags that are numbers}, for the tools.
NUMBERS = {
    "split": ("jobs",), "validate": ("jobs",), "convert": ("jobs",),
    "multihot": ("jobs", "seed"),
    "synthetic": ("jobs", "seed", "train_samples", "test_samples"),
    "preprocess": ("jobs", "max_table_rows", "frequency_threshold"),
    "restart": ("max_restarts", "grace"),
}  # fmt: skip
NEVER_ZERO = ("jobs", "train_samples", "test_samples", "max_table_rows", "frequency_threshold")


def _with(command, flag, value):
    """Returns the program and its arguments with a flag set to a value."""
    program, arguments = COMMANDS[command]
    if program == "main.py":
        return program, [a for a in arguments if not a.startswith(f"--{flag}=")] + [
            f"--{flag}={value}"
        ]
    if f"--{flag}" in arguments:
        place = arguments.index(f"--{flag}")
        arguments = [*arguments[:place], *arguments[place + 2 :]]
    return program, [f"--{flag}={value}", *arguments]


def _refused():
    """Yields (command, flag, value) that must be refused."""
    # One flag of main.py for each way to check a value.
    for flag, value in (
        ("keep", "abc"), ("keep", "1.5"), ("lr", "nan"), ("amp", "maybe"), ("noamp", "3"),
        ("mode", "nonsense"),
    ):  # fmt: skip
        yield "train", flag, value
    for (command, flag), values in TEXTS.items():
        for value in values:
            yield command, flag, value
    for command, flags in NUMBERS.items():
        for flag in flags:
            for value in ("", "abc", "0x10", "1.5", "-1"):
                yield command, flag, value
            if flag in NEVER_ZERO:
                yield command, flag, "0"
            if flag == "jobs":
                yield command, flag, "100000000"


def _accepted_extremes():
    """Yields (flag, value) of extreme numbers that main.py's parser accepts."""
    for flag, found in SETTINGS.items():
        if found.kind not in (int, float):
            continue
        for value in EXTREME:
            try:
                cli.parse(["main.py", "--data_dir=x", *workspace.MODEL, f"--{flag}={value}"])
            except UserError:
                continue
            yield flag, value


def _extremes():
    """Yields (command, flag, value) that may be refused or accepted."""
    yield from (("train", flag, value) for flag, value in _accepted_extremes())
    for command, flags in NUMBERS.items():
        for flag in flags:
            if flag != "grace":
                # A huge number of samples is valid, and would fill the disk.
                values = EXTREME[1:2] if flag.endswith("_samples") else EXTREME[1:]
                yield from ((command, flag, value) for value in values)


def _ids(cases):
    return [pytest.param(*case, id="-".join(map(str, case)) or "empty") for case in cases]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_works(server, here, command):
    program, arguments = COMMANDS[command]
    before = contents_without_out(here)
    result = server.run(program, *arguments, cwd=here)
    assert result.code == 0, result
    assert contents_without_out(here) == before


@pytest.mark.parametrize(("command", "flag", "value"), _ids(_refused()))
def test_command_refuses_wrong_value(server, here, command, flag, value):
    program, arguments = _with(command, flag, value)
    before = workspace.contents(here)
    result = server.run(program, *arguments, cwd=here)
    check_refused(result)
    assert re.sub("^no|^source_", "", flag) in result.err, result.err
    assert workspace.contents(here) == before


@pytest.mark.parametrize(("command", "flag", "value"), _ids(_extremes()))
def test_command_accepts_or_refuses_extreme_number(server, here, command, flag, value):
    program, arguments = _with(command, flag, value)
    before = contents_without_out(here)
    result = server.run(program, *arguments, cwd=here)
    if flag in ("lr", "embedding_lr") and result.code == 3:
        assert "NaN" in result.err, result.err  # It diverged.
    elif result.code:
        check_refused(result)
        assert flag in result.err, result.err
    assert not result.timed_out
    assert contents_without_out(here) == before


#: (command, flag or position) of the paths that commands write to.
OUTPUTS = {
    ("train", "run_dir"), ("train", "checkpoint_dir"), ("train", "mlperf_log"),
    ("export", "export_dir"), ("split", 1), ("convert", 1), ("synthetic", "output"),
    ("preprocess", "output"), ("preprocess", "work_dir"), ("report", "output"),
    ("report", "png"), ("export arrays", 2),
}  # fmt: skip
#: And of those that they read.
INPUTS = {
    ("train", "data_dir"), ("train", "restore"), ("evaluate", "checkpoint_dir"),
    ("train", "placement"), ("plan", "vocab_sizes"), ("split", 0), ("convert", 0),
    ("validate", 0), ("preprocess", "input"), ("preprocess", "dictionary"), ("report", 0),
    ("inspect", 1), ("verify", 1), ("export arrays", 1), ("train", "flagfile"),
}  # fmt: skip


def _at(command, place, path):
    if isinstance(place, str):
        return _with(command, place, path)
    program, arguments = COMMANDS[command]
    return program, [*arguments[:place], path, *arguments[place + 1 :]]


def _order(cases):
    return sorted(cases, key=str)


@pytest.mark.parametrize("url", ["s3://bucket/data", "file:///data"])
@pytest.mark.parametrize(("command", "place"), _order(OUTPUTS | INPUTS))
def test_command_refuses_url_and_writes_nothing(server, here, command, place, url):
    before = workspace.contents(here)
    program, arguments = _at(command, place, url)
    result = server.run(program, *arguments, cwd=here)
    check_refused(result)
    assert url.split("://")[0] in result.err, result.err
    assert workspace.contents(here) == before


@pytest.mark.parametrize("kind", ["empty", "below a file", "pipe", "no such device"])
@pytest.mark.parametrize(("command", "place"), _order(OUTPUTS))
def test_command_refuses_impossible_output(server, here, command, place, kind):
    os.mkfifo(here / "pipe")
    path = {
        "empty": "", "below a file": "sizes.json/deeper", "pipe": "pipe",
        "no such device": "/dev/full/deeper",
    }[kind]  # fmt: skip
    before = contents_without_out(here)
    program, arguments = _at(command, place, path)
    result = server.run(program, *arguments, cwd=here)
    check_refused(result)
    assert contents_without_out(here) == before


#: {(command, position): a file name that the command writes}; the user has a file of that name.
TAKEN = {
    ("split", 1): "label.bin",
    ("convert", 1): "train/label.bin",
    ("synthetic", "output"): "train_data.bin",
    ("preprocess", "output"): "train_data.bin",
    ("report", "output"): None,
    ("export", "export_dir"): "model.json",
    ("export arrays", 2): "table_00.npy",
}


@pytest.mark.parametrize(("command", "place"), _order(TAKEN))
def test_command_keeps_files_it_did_not_write(server, here, command, place):
    name = TAKEN[command, place]
    target = here / "kept" / name if name else here / "kept"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("kept")
    before = workspace.contents(here)
    program, arguments = _at(command, place, "kept")
    result = server.run(program, *arguments, cwd=here)
    check_refused(result)
    assert "kept" in result.err
    assert workspace.contents(here) == before
