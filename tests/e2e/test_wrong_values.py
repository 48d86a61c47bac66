"""Every flag of every command with values that it cannot mean, and paths that are none."""

import os
import re

import pytest

from tests.e2e import workspace
from tests.e2e.test_wrong_inputs import TRAIN, check_refused
from training.config import SETTINGS

_TRAIN = ["--data_dir=three", *TRAIN]
_PREPROCESS = ["--input", "days", "--output", "out/made", *workspace.DAYS]
_SYNTHETIC = ["--output", "out/made", "--train_samples", "9", "--test_samples", "9"]
#: {command: (program, the arguments that make it a right one)}.
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
    "synthetic": ("-m dataset.synthetic", _SYNTHETIC),
    "preprocess": ("preprocess.py", _PREPROCESS),
    "restart": ("-m training.restart", ["--", "true", "--checkpoint_dir=out"]),
    "report": ("-m training.report", ["one_run", "--output", "out/report.html"]),
    "inspect": ("-m training.checkpoint", ["inspect", "checkpoints"]),
    "evaluate": ("main.py", ["--mode=evaluate", "--data_dir=three", "--restore=checkpoints",
                             "--run_dir=out/r"]),
    "export": ("main.py", ["--mode=export", "--restore=checkpoints", "--export_dir=out/made"]),
    "export arrays": ("-m training.checkpoint", ["export", "checkpoints", "out/made"]),
}  # fmt: skip

# What no number is, and no list of numbers.
NO_NUMBER = ("", "abc", "nan", "1e400", "1,,2", "5 6")
# What some numbers may be: refused, or the command does its work.
ODD = ("-1", "0", "99999999999999999999", "2147483648")
_LIST = ("", "abc", "1,,2", "1,0", "-3", "1.5", "1;2", "99999999999999999999")
_SIZE = ("", "abc", "-1", "nan", "1e400GiB", "5 apples")
#: {(command, flag): values that are refused}, of the flags that are no plain numbers.
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
    ("inference", "batch_sizes"): _LIST,
    ("split", "vocab_sizes"): _LIST,
    ("validate", "vocab_sizes"): _LIST,
    ("validate", "layout"): ("", "nonsense"),
    ("convert", "vocab_sizes"): _LIST,
    ("convert", "source_layout"): ("", "nonsense"),
    ("convert", "layout"): ("", "nonsense", "torchrec"),
    ("synthetic", "vocab_sizes"): _LIST,
    ("preprocess", "memory_limit"): _SIZE,
    ("preprocess", "max_rejects"): ("", "abc", "-1", "nan", "101%", "5 apples"),
    ("preprocess", "test_fraction"): ("", "abc", "-1", "nan", "0", "1", "150%"),
    ("preprocess", "train_days"): ("", "abc", "5-2", "1,,2", "-1", "0-99999999999"),
    ("preprocess", "test_day"): ("", "abc", "-1", "1.5"),
    ("preprocess", "engine"): ("", "nonsense"),
    ("preprocess", "spark_conf"): ("", "abc", "=x"),
}
#: Numbers of the tools.
NUMBERS = {
    "split": ("jobs",), "validate": ("jobs",), "convert": ("jobs",),
    "synthetic": ("jobs", "seed", "train_samples", "test_samples"),
    "preprocess": ("jobs", "max_table_rows", "frequency_threshold"),
    "restart": ("max_restarts", "grace"),
}  # fmt: skip
# What these numbers mean is a refusal, and not by their size alone.
NEVER_ZERO = ("jobs", "train_samples", "test_samples", "max_table_rows", "frequency_threshold")


def _main_flags():
    """Returns {kind: [flag]} of main.py."""
    kinds = {}
    for name, found in SETTINGS.items():
        kind = "choice" if found.choices else found.kind.__name__
        kinds.setdefault(kind, []).append(name)
    return kinds


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
    kinds = _main_flags()
    for kind, values in (
        ("int", (*NO_NUMBER, "1.5")), ("float", NO_NUMBER), ("bool", ("maybe", "3", "")),
        ("choice", ("", "nonsense")),
    ):  # fmt: skip
        for flag in kinds[kind]:
            for value in values:
                yield "train", flag, value
    for flag in kinds["bool"]:
        yield "train", f"no{flag}", "3"
    for (command, flag), values in TEXTS.items():
        for value in values:
            yield command, flag, value
    for command, flags in NUMBERS.items():
        for flag in flags:
            for value in (*NO_NUMBER, "0x10", "1.5", "-1"):
                yield command, flag, value
            if flag in NEVER_ZERO:
                yield command, flag, "0"
            if flag == "jobs":
                yield command, flag, "100000000"


def _odd():
    kinds = _main_flags()
    for flag in (*kinds["int"], *kinds["float"]):
        for value in ODD:
            yield "train", flag, value
    for command, flags in NUMBERS.items():
        for flag in flags:
            if flag != "grace":
                # So many samples are right, and fill the disk.
                values = ODD[1:3] if flag.endswith("_samples") else ODD[1:]
                yield from ((command, flag, value) for value in values)


def _ids(cases):
    return [pytest.param(*case, id="-".join(map(str, case)) or "empty") for case in cases]


def _outside_out(folder):
    return {k: v for k, v in workspace.contents(folder).items() if not re.match(r"out(/|$)", k)}


@pytest.mark.parametrize("command", COMMANDS)
def test_right_arguments_are_right(server, here, command):
    program, arguments = COMMANDS[command]
    before = _outside_out(here)
    result = server.run(program, *arguments, cwd=here)
    assert result.code == 0, result
    assert _outside_out(here) == before


@pytest.mark.parametrize(("command", "flag", "value"), _ids(_refused()))
def test_wrong_value_is_refused(server, here, command, flag, value):
    program, arguments = _with(command, flag, value)
    before = workspace.contents(here)
    result = server.run(program, *arguments, cwd=here, timeout=20)
    check_refused(result)
    assert re.sub("^no|^source_", "", flag) in result.err, result.err
    assert workspace.contents(here) == before


@pytest.mark.parametrize(("command", "flag", "value"), _ids(_odd()))
def test_odd_number_is_refused_or_taken(server, here, command, flag, value):
    program, arguments = _with(command, flag, value)
    before = _outside_out(here)
    result = server.run(program, *arguments, cwd=here, timeout=20)
    if flag in ("lr", "embedding_lr") and result.code == 3:
        assert "NaN" in result.err, result.err  # It diverges, as it must.
    elif result.code:
        check_refused(result)
        assert flag in result.err, result.err
    assert not result.timed_out
    assert _outside_out(here) == before


#: {(command, flag or place): path that the command takes}: where it writes.
OUTPUTS = {
    ("train", "run_dir"), ("train", "checkpoint_dir"), ("train", "mlperf_log"),
    ("export", "export_dir"), ("split", 1), ("convert", 1), ("synthetic", "output"),
    ("preprocess", "output"), ("report", "output"), ("report", "png"), ("export arrays", 2),
}  # fmt: skip
#: And where it reads.
INPUTS = {
    ("train", "data_dir"), ("train", "restore"), ("evaluate", "checkpoint_dir"),
    ("train", "placement"), ("plan", "vocab_sizes"), ("split", 0), ("convert", 0),
    ("validate", 0), ("preprocess", "input"), ("preprocess", "dictionary"), ("report", 0),
    ("inspect", 1), ("export arrays", 1), ("train", "flagfile"),
}  # fmt: skip


def _at(command, place, path):
    if isinstance(place, str):
        return _with(command, place, path)
    program, arguments = COMMANDS[command]
    return program, [*arguments[:place], path, *arguments[place + 1 :]]


def _order(cases):
    return sorted(cases, key=str)


@pytest.mark.parametrize("url", ["gs://bucket/data", "s3://bucket/data", "hdfs://host/data"])
@pytest.mark.parametrize(("command", "place"), _order(OUTPUTS | INPUTS))
def test_url_is_refused_and_nothing_written(server, here, command, place, url):
    before = workspace.contents(here)
    program, arguments = _at(command, place, url)
    result = server.run(program, *arguments, cwd=here, timeout=20)
    check_refused(result)
    assert url.split("://")[0] in result.err, result.err
    assert workspace.contents(here) == before


@pytest.mark.parametrize("kind", ["empty", "below a file", "pipe", "no such device"])
@pytest.mark.parametrize(("command", "place"), _order(OUTPUTS))
def test_output_that_cannot_be_is_refused(server, here, command, place, kind):
    os.mkfifo(here / "pipe")
    path = {
        "empty": "", "below a file": "sizes.json/deeper", "pipe": "pipe",
        "no such device": "/dev/full/deeper",
    }[kind]  # fmt: skip
    before = _outside_out(here)
    program, arguments = _at(command, place, path)
    result = server.run(program, *arguments, cwd=here, timeout=20)
    check_refused(result)
    assert _outside_out(here) == before


#: {(command, place): a file of the user's below the output that has the name of one it writes}.
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
def test_files_of_the_users_are_kept(server, here, command, place):
    name = TAKEN[command, place]
    target = here / "mine" / name if name else here / "mine"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("mine")
    before = workspace.contents(here)
    program, arguments = _at(command, place, "mine")
    result = server.run(program, *arguments, cwd=here, timeout=20)
    check_refused(result)
    assert "mine" in result.err
    assert workspace.contents(here) == before
