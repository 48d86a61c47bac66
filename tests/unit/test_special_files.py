"""Tools whose input is not a regular file report one line, without hanging or reading a device.

Each row of `INPUTS` replaces one file of a valid input, for example by a named pipe, and runs the
tool that reads it.
"""

import functools
import os
import resource
import shutil

import numpy as np
import psutil
import pytest

import main
import split_bin
from dataset import convert, validate
from tests.support.dataset import layouts
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_days
from training.checkpoint import __main__ as checkpoint
from training.checkpoint import checksums, manifest
from training.checkpoint.npy_files import ArrayFiles

pytestmark = pytest.mark.timeout(60)
SIZES = ",".join(map(str, VOCAB_SIZES))


def make_device(path):
    path.symlink_to("/dev/zero")


def make_dangling_link(path):
    path.symlink_to("nowhere")


@functools.lru_cache(None)
def write_dataset(layout):
    return lambda folder, rng: layout(folder, random_arrays(300, rng), random_arrays(100, rng))


@functools.lru_cache(None)
def own(layout):
    def write(folder, rng):
        layouts.raw(folder / "raw", random_arrays(300, rng), random_arrays(100, rng))
        arguments = [str(folder / "raw"), str(folder / "data"), f"--layout={layout}"]
        assert convert.main(arguments) == 0

    return write


def write_checkpoint(folder, _):
    path = folder / STEP
    path.mkdir()
    arrays = ArrayFiles(path)
    dense = {}
    for number, shape in enumerate([(13, 4), (4,), (7, 1), (1,)]):
        name = f"{number:02d}.x"
        entry = arrays.write(f"dense.{name}.npy", shape, "float32", [np.ones(shape)])
        dense[name] = entry
    entry = arrays.write("table_00.rank_0.npy", (9, 4), "float32", [np.ones((9, 4))])
    table = {"table": 0, "state": "table", "row_offset": 0, "row_stride": 1, "rows": 9,
             "column_start": 0, "column_end": 4, **entry}  # fmt: skip
    text = manifest.text_of({
        "step": 3, "epoch": 0, "ranks": 1, "vocab_sizes": [9], "embedding_dim": 4, "dense": dense,
        "optimizer": {}, "loss_scale": {}, "tables": [table], "evaluations": [],
        "flags": {"bottom_mlp": "4", "top_mlp": "1", "embedding_dim": 4},
        "data": {"layout": "synthetic"}, "versions": {}, "written": "2026-01-01T00:00:00Z",
    })  # fmt: skip
    digests = {
        **arrays.digests,
        "manifest.json": checksums.write_text(path / "manifest.json", text),
    }
    checksums.write_checksums(path, digests)


def write_flags(folder, _=None):
    (folder / "a.flags").write_text(f"--flagfile={folder}/b.flags\n--mode=plan\n")
    (folder / "b.flags").write_text("--ranks=2\n")


def on(tool, *arguments):
    """Returns a function (folder) that runs a tool; the folder's path replaces {}."""
    return lambda folder: tool.main([str(a).replace("{}", str(folder)) for a in arguments])


STEP = "step-000000003"
VALIDATE, VALIDATE_OWN = on(validate, "{}"), on(validate, "{}/data")
# name: (writer, file, call)
INPUTS = {
    "raw": (write_dataset(layouts.raw), "train_data.bin", VALIDATE),
    "three files": (own("three_file"), "data/train/category.bin", VALIDATE_OWN),
    "per table": (own("per_table"), "data/train/category_3.bin", VALIDATE_OWN),
    "NVIDIA's columns": (write_dataset(layouts.mlperf), "train/cat_2.bin", VALIDATE),
    "day": (
        lambda folder, rng: write_days(folder, random_arrays(90, rng), [40, 30, 20]),
        "day_1_dense.npy",
        on(validate, "{}", f"--vocab_sizes={SIZES}"),
    ),
    "split_bin's source": (
        write_dataset(layouts.raw), "train_data.bin", on(split_bin, "{}/train_data.bin", "{}/out")
    ),
    "convert's source": (
        write_dataset(layouts.raw), "test_data.bin", on(convert, "{}", "{}/out", "--layout=raw")
    ),
    "inspected sums": (write_checkpoint, f"{STEP}/SHA256SUMS", on(checkpoint, "inspect", "{}")),
    "verified sums": (write_checkpoint, f"{STEP}/SHA256SUMS", on(checkpoint, "verify", "{}")),
    "manifest": (write_checkpoint, f"{STEP}/manifest.json", on(checkpoint, "inspect", "{}")),
    "verified array": (
        write_checkpoint, f"{STEP}/dense.00.x.npy", on(checkpoint, "verify", "{}")
    ),
    "exported table": (
        write_checkpoint, f"{STEP}/table_00.rank_0.npy", on(checkpoint, "export", "{}", "{}/out")
    ),
    "flags": (write_flags, "a.flags", on(main, "main.py", "--flagfile={}/a.flags")),
    "flags in flags": (write_flags, "b.flags", on(main, "main.py", "--flagfile={}/a.flags")),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory, shared_rng):
    """A function (writer) -> the folder with its files, written once for all tests."""
    written = {}

    def folder(write):
        if write not in written:
            written[write] = tmp_path_factory.mktemp("good")
            write(written[write], shared_rng("test_special_files"))
        return written[write]

    return folder


@pytest.fixture
def little_memory():
    """Allows the process half a GiB more, so that reading a device fails early."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def run(tool, folder):
    """Runs a tool; returns its exit status, also after SystemExit."""
    try:
        return tool(folder)
    except SystemExit as ended:
        return ended.code


CASES = [
    *((name, make) for name in INPUTS for make in (os.mkfifo, make_dangling_link)),
    *((name, make) for name in ("raw", "manifest", "flags") for make in (os.mkdir, make_device)),
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_tool_reports_a_special_file_in_one_line(tmp_path, capsys, good, request, name, make):
    write, file, tool = INPUTS[name]
    folder = tmp_path / "input"
    shutil.copytree(good(write), folder)
    request.getfixturevalue("little_memory")
    if write is write_flags:
        write(folder)
    (folder / file).unlink()
    make(folder / file)
    before = sorted(str(path) for path in folder.rglob("*"))
    status = run(tool, folder)
    output = capsys.readouterr()
    assert status == 2, output
    # The command `verify` reports problems on standard output.
    assert any(file in line for line in (output.out + output.err).splitlines()), output
    after = sorted(str(path) for path in folder.rglob("*"))
    assert [path for path in after if not path.endswith("/out")] == before


@pytest.mark.parametrize("name", INPUTS)
def test_tool_follows_a_link_to_a_regular_file(tmp_path, good, name):
    write, file, tool = INPUTS[name]
    folder = tmp_path / "input"
    shutil.copytree(good(write), folder)
    (folder / file).rename(folder / "elsewhere")
    (folder / file).symlink_to(folder / "elsewhere")
    assert run(tool, folder) == 0
