"""The tools that write datasets, each with small inputs."""

import importlib
import os

from tests.support.dataset import layouts
from tests.support.dataset.hand_written import random_arrays

TOOLS = (
    "split_bin", "per_table", "convert", "to_raw", "raw_file", "multihot", "synthetic", "crossed",
)  # fmt: skip


def write_source(folder, rng):
    """Writes the raw dataset that the tools read."""
    layouts.raw(folder, random_arrays(400, rng), random_arrays(100, rng))


def command(tool, raw, out, *more):
    """Returns (module, arguments) that write into the folder `out`."""
    train = str(raw / "train_data.bin")
    return {
        "split_bin": ("split_bin", [train, str(out), *more]),
        "per_table": ("split_bin", [train, str(out), "--split_categories", *more]),
        "convert": ("dataset.convert", [str(raw), str(out), "--layout=three_file", *more]),
        "to_raw": ("dataset.convert", [str(raw), str(out), "--layout=raw", *more]),
        "raw_file": (
            "dataset.convert", [train, str(out / "train_data.bin"), "--layout=raw", *more]
        ),
        "multihot": (
            "dataset.multihot", [str(raw), str(out), "--hotness=2,1,3,1,1,4,2,5", *more]
        ),
        "synthetic": (
            "dataset.synthetic",
            [f"--output={out}", "--train_samples=300", "--test_samples=100",
             "--vocab_sizes=9,20,3", *more],
        ),
        "crossed": (
            "dataset.synthetic",
            [f"--output={out}", "--train_samples=300", "--test_samples=100", "--labels=crossed",
             "--vocab_sizes=9,20,3", "--hotness=2,1,4", *more],
        ),
    }[tool]  # fmt: skip


def run(tool, raw, out, *more):
    """Runs a tool in this process; returns its exit status."""
    name, arguments = command(tool, raw, out, *more)
    return importlib.import_module(name).main(arguments)


def content(folder):
    """Returns {path: bytes, or the target of a link} of everything in a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
