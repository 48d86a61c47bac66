"""Tools whose standard output cannot be written."""

import os
import subprocess
import sys

import pytest

from dataset import synthetic, validate
from tests.support.paths import ROOT


def test_tool_exits_quietly_when_its_reader_exits(tmp_path, seed):
    # 300 tables print more than Python's buffer holds: the error occurs before the end.
    synthetic.write_dataset(str(tmp_path), 99, 9, [7] * 300, seed, progress=False)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "dataset.validate", str(tmp_path)],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert done.returncode == 141
    assert "Error" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("redirection", "status"), [(">&- 2>&- <&-", 0), (">/dev/full", 2)])
def test_tool_without_output_writes_correct_data(tmp_path, seed, redirection, status):
    raw = tmp_path / "raw"
    synthetic.write_dataset(str(raw), 999, 9, [7, 900], seed, progress=False)
    command = [sys.executable, "split_bin.py", str(raw / "train_data.bin"), str(tmp_path / "train")]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command], cwd=ROOT,
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert ("No space left on device" in done.stderr) == (status == 2)
    assert validate.main([str(tmp_path / "train")]) == 0
