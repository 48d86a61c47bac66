"""The command line of main.py: what it refuses, and what it says. No TensorFlow is started."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOROVOD_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data_dir=x"], "--global_batch_size is required"),
        (["--global_batch_size=64"], "--data_dir is required"),
        (["--globl_batch_size=64"], "unknown flag --globl_batch_size; did you mean --global_batch"),
        (["--max_steps=64"], "unknown flag --max_steps; did you mean --early_stop?"),
        (["--qqqq=64"], "unknown flag --qqqq (--help lists all)"),
        (["--global_batch_size=ten"], "global_batch_size"),
        (["--data_dir=x", "--global_batch_size=0"], "global_batch_size"),
        (["--data_dir=x", "--global_batch_size=8", "--early_stop=0"], "--early_stop=0"),
        (["--data_dir=x", "--global_batch_size=8", "--top_mlp=8,2"], "the last width must be 1"),
        (["--data_dir=x", "--global_batch_size=8", "--top_mlp=8,x"], "expected positive integers"),
        (
            ["--data_dir=x", "--global_batch_size=8", "--embedding_dim=64"],
            "ends in 128, but --embedding_dim is 64",
        ),
        (["--data_dir=x", "--global_batch_size=8", "--vocab_sizes=3,4"], "only goes with"),
        (["--data_dir=x", "--global_batch_size=8", "stray"], "unexpected arguments stray"),
    ],
)  # fmt: skip
def test_wrong_flags_are_one_line(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2


def test_help_lists_every_flag_once():
    result = run("--help")
    assert result.returncode == 0
    from training import flags

    names = [name for group in flags.GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    for name in names:
        assert f"  --{name} " in result.stdout or f"  --{name}\n" in result.stdout


def test_help_says_what_a_flag_without_default_stands_for():
    from dataset.layouts import LAYOUTS
    from training import flags

    for name in (name for group in flags.GROUPS.values() for name in group):
        flag = flags.FLAGS[name]
        if flag.default is None:
            assert "default" in flag.help.lower() or "required" in flag.help, name
    assert all(layout in flags.FLAGS["data_layout"].help for layout in LAYOUTS)
    lines = flags.help_text().splitlines()
    assert max(map(len, lines)) <= 100
    at = lines.index("  --auc [exact]")
    assert lines[at + 1] == "      one of exact, binned"
    assert lines[at + 2].startswith("      exact: ")


def test_help_ends_quietly_when_its_reader_does():
    command = f"{shlex.quote(sys.executable)} main.py --help | head -1"
    result = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.startswith("[Info]")
    assert result.stderr == ""
