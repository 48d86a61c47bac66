"""The tools that write datasets, each with small inputs."""

import importlib
import json
import os

from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_raw

TOOLS = ("split_bin", "per_table", "convert", "to_raw", "raw_file", "synthetic")


def write_source(folder, rng):
    """Writes the raw dataset that the tools read."""
    for name, samples in (("train_data.bin", 400), ("test_data.bin", 100)):
        write_raw(folder / name, random_arrays(samples, rng))
    (folder / "vocab_sizes.json").write_text(json.dumps(VOCAB_SIZES))


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
        "synthetic": (
            "dataset.synthetic",
            [f"--output={out}", "--train_samples=300", "--test_samples=100",
             "--vocab_sizes=9,20,3", *more],
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
