"""Whole runs with the native kernels and without: the same files, to the byte."""

import pytest

from dataset.preprocessing import native, pipeline
from tests.support.dataset.preprocessing.fixtures import random_lines, run_options, write_days


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "stages" not in path.parts and path.name != "lock"
    }


@pytest.mark.parametrize(
    "given",
    [
        {"max_table_rows": 1000},
        {"max_table_rows": None, "frequency_threshold": 2, "negatives": "keep"},
        {"max_table_rows": 1000, "layout": "per_table"},
    ],
    ids=str,
)
def test_kernels_change_nothing(tmp_path, monkeypatch, given):
    if not native.PATH.exists():
        pytest.skip(f"{native.PATH} is not built")
    write_days(tmp_path, random_lines(1, 700, bad=0.05), random_lines(2, 301))
    found, said = {}, {}
    for kernels in ("native", "NumPy"):
        if kernels == "NumPy":
            monkeypatch.setattr(native, "load", lambda: None)
        options = run_options(
            tmp_path, output=str(tmp_path / kernels), keep_parts=True, max_rejects=1, test_day=1,
            train_days=(0,), **given
        )  # fmt: skip
        lines = []
        pipeline.run(options, say=lines.append)
        found[kernels] = _files(tmp_path / kernels)
        said[kernels] = next(line for line in lines if line.startswith("  kernels: "))
    assert said["native"] == "  kernels: native" and "NumPy" in said["NumPy"]
    assert sorted(found["native"]) == sorted(found["NumPy"])
    different = [name for name in found["NumPy"] if found["native"][name] != found["NumPy"][name]]
    assert not different
    assert any(name.endswith("rejects.tsv") for name in found["NumPy"])
    assert any(name.endswith(".parquet") for name in found["NumPy"])
