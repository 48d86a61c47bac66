"""A small set of the files that commands read: data in every layout, days, a checkpoint, a run."""

import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import yaml

VOCAB = (30, 20, 7)
#: The smallest model; an epoch has ten steps.
MODEL = (
    "--global_batch_size=64", "--embedding_dim=4", "--bottom_mlp=4", "--top_mlp=4,1",
    "--print_interval=5",
)  # fmt: skip
#: Options of preprocess.py for the days.
DAYS = ("--train_days", "0", "--test_day", "1", "--jobs", "1", "--memory_limit", "1GiB")


def make(server, folder, rng):
    """Fills a folder.

    Args:
        server: a `CommandServer`.
        folder: an empty folder.
        rng: a `numpy.random.Generator`.
    """

    def run(program, *arguments):
        done = server.run(program, *arguments, cwd=folder, timeout=120)
        assert done.code == 0, (program, arguments, done)

    sizes = ",".join(map(str, VOCAB))
    run("-m dataset.synthetic", "--output", "raw", "--train_samples", 640, "--test_samples", 100,
        "--vocab_sizes", sizes)  # fmt: skip
    for part in ("train", "test"):
        run("split_bin.py", f"raw/{part}_data.bin", f"three/{part}")
        run("split_bin.py", f"raw/{part}_data.bin", f"tables/{part}", "--split_categories")
    (folder / "sizes.json").write_text(json.dumps(list(VOCAB)))
    (folder / "run.flags").write_text("\n".join(MODEL) + "\n")
    _deep_learning_examples(folder)
    _torchrec(folder, rng)
    _days(folder, rng)
    run("preprocess.py", "--input", "days", "--output", "done", *DAYS, "--frequency_threshold", 1)
    run("main.py", "--data_dir=three", *MODEL, "--checkpoint_dir=checkpoints", "--run_dir=runs")
    (folder / "run").symlink_to(os.path.realpath(folder / "runs" / "latest"))
    os.replace(os.path.realpath(folder / "run"), folder / "one_run")
    (folder / "run").unlink()
    shutil.rmtree(folder / "runs")
    placement = {"tables": [{"table": t, "kind": "table", "rank": 0} for t in range(len(VOCAB))]}
    (folder / "placement.json").write_text(json.dumps(placement))


def _deep_learning_examples(folder):
    chunks = {"train": [], "test": []}
    for part in ("train", "test"):
        here = folder / "dle" / part
        here.mkdir(parents=True)
        table = folder / "tables" / part
        for name, theirs in (("label", "label"), ("dense", "numerical")):
            shutil.copy(table / f"{name}.bin", here / f"{theirs}.bin")
        entries = [("label", ["label"]), ("numerical", [f"num_{i}" for i in range(13)])]
        for index in range(len(VOCAB)):
            shutil.copy(table / f"category_{index}.bin", here / f"cat_{index}.bin")
            entries.append((f"cat_{index}", [f"cat_{index}.bin"]))
        chunks[part] = [
            {"features": features, "files": [f"{part}/{name}.bin"], "type": "split_binary"}
            for name, features in entries
        ]
    sources = {"label": {"dtype": "bool"}}
    sources.update({f"num_{i}": {"dtype": "float16"} for i in range(13)})
    sources.update(
        {f"cat_{i}.bin": {"dtype": "int8", "cardinality": rows} for i, rows in enumerate(VOCAB)}
    )
    spec = {
        "channel_spec": {
            "categorical": [f"cat_{i}.bin" for i in range(len(VOCAB))],
            "label": ["label"],
            "numerical": [f"num_{i}" for i in range(13)],
        },
        "feature_spec": sources,
        "metadata": {},
        "source_spec": chunks,
    }
    (folder / "dle" / "feature_spec.yaml").write_text(yaml.safe_dump(spec))


def _torchrec(folder, rng):
    (folder / "torchrec").mkdir()
    for day in range(2):
        stem = folder / "torchrec" / f"day_{day}"
        np.save(f"{stem}_dense.npy", rng.random((100, 13), np.float32))
        ids = np.stack([rng.integers(0, rows, 100) for rows in VOCAB], axis=1)
        np.save(f"{stem}_sparse.npy", ids.astype(np.int32))
        np.save(f"{stem}_labels.npy", rng.integers(0, 2, (100, 1)).astype(np.int32))
    (folder / "torchrec" / "vocab_sizes.json").write_text(json.dumps(list(VOCAB)))


def _days(folder, rng):
    (folder / "days").mkdir()
    for day in range(2):
        lines = [
            "\t".join(
                [
                    str(rng.integers(2)),
                    *map(str, rng.integers(100, size=13)),
                    *(f"{value:08x}" for value in rng.integers(6, size=26)),
                ]
            )
            for _ in range(300)
        ]
        (folder / "days" / f"day_{day}").write_text("\n".join(lines) + "\n")


def link(source, target):
    """Copies a folder; its files become hard links to the originals.

    A command that writes into one of them changes the original, which `contents` shows.
    """
    shutil.copytree(source, target, symlinks=True, copy_function=os.link)


def contents(folder):
    """Returns {path: digest, link target or mode} of everything in a folder."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = hashlib.md5(path.read_bytes()).hexdigest()
        else:
            found[name] = f"{path.lstat().st_mode:o}"
    return found


def contents_without_out(folder):
    """Returns `contents` without what a command wrote into the folder `out`."""
    return {name: v for name, v in contents(folder).items() if not name.startswith("out/")}


def check_refused(result):
    """Asserts that a command ended with exit code 2 and a one-line message."""
    assert not result.timed_out, "the command hangs"
    assert "Traceback" not in result.err + result.out, result.err
    assert result.code == 2, (result.code, result.err, result.out)
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert lines, "no message"
    # argparse prints the usage first, TensorFlow up to two lines of its own.
    assert len(lines) <= 3 or lines[0].startswith("usage:"), result.err
    assert max(map(len, lines)) < 1000, result.err
