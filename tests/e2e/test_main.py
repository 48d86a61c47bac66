"""main.py as a process: exit codes and messages of errors, and --help."""

import pytest

from tests.e2e.workspace import check_refused
from training.config import SETTINGS

SYNTHETIC = ("--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--lr=high"], "--lr=high"),
        ([*SYNTHETIC, "--profile_steps=31-40"], "--profile_steps=31-40"),
        ([*SYNTHETIC, "--early_stop=24", "--step_breakdown"], "--step_breakdown"),
        (["--mode=export", "--export_dir=x", "--restore=nowhere"], "--restore=nowhere"),
        (["--mode=evaluate", "--data_dir=x", "--checkpoint_dir=file"], "--checkpoint_dir=file"),
    ],
)  # fmt: skip
def test_main_reports_wrong_flag_in_one_line(server, tmp_path, arguments, named):
    (tmp_path / "file").touch()
    result = server.run("main.py", *arguments, cwd=tmp_path)
    check_refused(result)
    assert named in result.err


def test_main_help_lists_every_flag(server, tmp_path):
    result = server.run("main.py", "--help", cwd=tmp_path)
    assert result.code == 0
    assert {f"--{name}" for name in SETTINGS} <= set(result.out.split())
