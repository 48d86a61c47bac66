import pathlib

import pytest

from tests import launch

VOCAB = "300,20,7,1000,3,150"
# Fixtures that take whole runs to make, and how far they are shared. The tests that use the same
# one go to the same of `make test`'s workers, so that it is made once.
EXPENSIVE = {
    "checkpoint": "module", "emulated": "module", "learnable_run": "session", "spark": "module",
    "thirty_steps": "module", "trained": "module",
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        for name in EXPENSIVE:
            if name not in getattr(item, "fixturenames", ()):
                continue
            where = item.path.stem if EXPENSIVE[name] == "module" else "all"
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            group = f"{where}-{name}-{parameters.get(name, '')}"
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """A three-file dataset of 20,000 training and 3,001 test samples with six tables."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "raw"
    made = launch.run(
        1, "-m", "dataset.synthetic", "--output", raw, "--train_samples", 20000,
        "--test_samples", 3001, "--vocab_sizes", VOCAB,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for part in ("train", "test"):
        split = launch.run(1, "split_bin.py", raw / f"{part}_data.bin", folder / part)
        assert split.returncode == 0, split.stderr
    return pathlib.Path(folder)
