"""The data tools as processes, on data with several ids per feature."""

import subprocess
import sys

from dataset import open_split
from tests.support.dataset import multi_hot
from tests.support.dataset.multi_hot import FIXED, VARIABLE, random_samples
from tests.support.paths import ROOT


def run(*words):
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_tools_split_convert_and_check(tmp_path, rng):
    drawn = random_samples(rng, 3000)
    multi_hot.write_raw(tmp_path / "train_data.bin", drawn)
    flags = ("--hotness", ",".join(map(str, FIXED.hotness)), "--pooling", "mean")
    split = ("split_bin.py", tmp_path / "train_data.bin", tmp_path / "train", *flags)
    status, printed, _ = run(*split)
    assert (status, "17 ids per sample" in printed) == (0, True)
    convert = ("dataset.convert", tmp_path / "train", tmp_path / "narrow", "--layout=per_table")
    assert run("-m", *convert)[0] == 0
    status, printed, _ = run("-m", "dataset.validate", tmp_path / "narrow")
    assert status == 0
    assert "; mean of 7 ids per sample" in printed
    # Pooling does not matter for one id, and is not recorded.
    assert open_split(tmp_path / "narrow").bags.pooling == ("sum", *["mean"] * 4)


def test_tools_report_wrong_lists_in_one_line(tmp_path, rng):
    multi_hot.write_per_table(tmp_path / "a", random_samples(rng, 100, VARIABLE))
    status, _, lines = run("-m", "dataset.convert", tmp_path / "a", tmp_path / "b", "--layout=raw")
    assert (status, len(lines)) == (2, 1)
    offsets = tmp_path / "a" / "category_2_offsets.bin"
    offsets.write_bytes(offsets.read_bytes()[:-8])
    status, _, lines = run("-m", "dataset.validate", tmp_path / "a")
    assert (status, len(lines)) == (2, 1)
    assert "category_2_offsets.bin: truncated: expected 808 bytes" in lines[0]
