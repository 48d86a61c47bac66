"""The command line of main.py: what it refuses, and what it says. No step is made."""

import os
import subprocess
import sys

import pytest

from dataset.layouts import LAYOUTS
from tests.support import launch
from tests.support.paths import ROOT
from training import cli
from training.config import SETTINGS

SYNTHETIC = ("--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8")


def run(*arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOROVOD_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data_dir=x"], "--global_batch_size is required"),
        (["--global_batch_size=64"], "--data_dir is required"),
        (["--flagfile=missing"], "--flagfile: cannot be read: missing: No such file or directory"),
        (["--flagfile=docs/report.png"], "=docs/report.png: is no text in UTF-8: byte 0"),
        (["--stall_timeout=soon"], "--stall_timeout=soon: expected a whole number"),
        (["--lr=high"], "--lr=high: expected a number"),
        (["--keep=0"], "--keep=0: 0 is not a positive integer"),
        ([*SYNTHETIC, "--keep=3"], "--keep has no effect without --checkpoint_dir"),
        ([*SYNTHETIC, "--checkpoint_interval=9"], "no effect without --checkpoint_dir"),
        ([*SYNTHETIC, "--checkpoint_dir=x", "--checkpoint_interval=soon"],
         "--checkpoint_interval=soon: expected a number of steps, or minutes"),
        ([*SYNTHETIC, "--profile_steps=31-40"], "--profile_steps=31-40: the run has 30 steps"),
        ([*SYNTHETIC, "--early_stop=24", "--step_breakdown"],
         "--step_breakdown takes 25 steps, the run has 24"),
        (["--mode=inference_benchmark", "--step_breakdown"],
         "--step_breakdown is of training's steps, not of --mode=inference_benchmark"),
        (["--mode=export", "--export_dir=x", "--restore=nowhere"],
         "--restore=nowhere: no such folder; expected a checkpoint"),
        (["--mode=evaluate", "--data_dir=x", "--checkpoint_dir=README.md"],
         "--checkpoint_dir=README.md: no such folder; expected a checkpoint"),
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
        ([*SYNTHETIC, "--ranks=8"], "--ranks only goes with --mode=plan: --mode=train runs on"),
        ([*SYNTHETIC, "--device=h100-80gb"], "--device only goes with --mode=plan"),
        (["--mode=plan", "--ranks=99999999"], "--ranks=99999999"),
        ([*SYNTHETIC, "--embedding_lr=nan"], "--embedding_lr=nan: expected a finite number"),
        ([*SYNTHETIC, "--embedding_lr=inf"], "--embedding_lr=inf: expected a finite number"),
        ([*SYNTHETIC, "--auc_threshold=nan"], "--auc_threshold=nan: expected a finite number"),
        ([*SYNTHETIC, "--shuffle_seed=-1"], "--shuffle_seed=-1: -1 is not an integer in"),
        ([*SYNTHETIC, "--seed=9223372036854775808"], "--seed=9223372036854775808"),
        ([*SYNTHETIC, "--parallel_reads=100000"], "--parallel_reads=100000"),
        ([*SYNTHETIC, "--prefetch=99999999999999999999"], "--prefetch=99999999999999999999"),
        ([*SYNTHETIC, "--bottom_mlp=true,128"], "--bottom_mlp=true,128: expected positive integ"),
        ([*SYNTHETIC, "--checkpoint_dir="], "--checkpoint_dir= is empty: expected a path"),
        ([*SYNTHETIC, "--restore="], "--restore= is empty: expected a path"),
        ([*SYNTHETIC, "--run_dir="], "--run_dir= is empty: expected a path"),
        ([*SYNTHETIC, "--column_split", "--embedding_optimizer=rowwise_adagrad"],
         "--column_split does not go with row-wise Adagrad"),
        (["--mode=plan", "--column_split", "--embedding_optimizer=rowwise_adagrad"],
         "--column_split does not go with row-wise Adagrad"),
        ([*SYNTHETIC, "--embedding_optimizer_options=l1=1"],
         "--embedding_optimizer_options=l1=1: --embedding_optimizer=sgd has no options"),
        ([*SYNTHETIC, "--embedding_optimizer=ftrl", "--embedding_optimizer_options=l1=-1"],
         "ftrl option l1 is -1.0, expected a float32 number of at least 0"),
        ([*SYNTHETIC, "--applied_transform=none"], "--applied_transform=none has no effect"),
        (["--mode=plan", "--data_dir=x", "--applied_transform=none"],
         "--applied_transform=none has no effect"),
        (["--mode=inference_benchmark", "--applied_transform=none"],
         "--applied_transform=none has no effect"),
        (["--data_dir=x", "--global_batch_size=8", "--applied_transform=log"],
         "--applied_transform=log"),
        (["--data_dir=x", "--global_batch_size=8", "stray"], "unexpected arguments stray"),
    ],
)  # fmt: skip
def test_wrong_flags_are_one_line(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(launch.without_logs(result.stderr).strip().splitlines()) <= 2


def test_help_lists_every_flag_once():
    result = run("--help")
    assert result.returncode == 0
    for name in SETTINGS:
        assert f"  --{name} " in result.stdout or f"  --{name}\n" in result.stdout


def test_help_says_what_a_flag_without_default_stands_for():
    for name, found in SETTINGS.items():
        if found.default is None:
            assert "default" in found.help.lower() or "required" in found.help, name
    assert all(layout in SETTINGS["data_layout"].help for layout in LAYOUTS)
    lines = cli.help_text().splitlines()
    assert max(map(len, lines)) <= 100
    at = lines.index("  --auc [exact]")
    assert lines[at + 1] == "      one of exact, binned"
    assert lines[at + 2].startswith("      exact: ")
    assert "  --stall_timeout [60] (seconds)" in lines
    assert "  --global_batch_size (samples)" in lines
