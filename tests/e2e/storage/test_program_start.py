"""Every program of the project, where its packages or its standard output are missing."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SCRIPTS = ["main.py", "preprocess.py", "split_bin.py"]
PACKAGES = ["benchmarks", "dataset", "deploy", "model", "training"]
# No programs for users: each is started by another one.
WORKERS = {"benchmarks.training.reaper", "benchmarks.training.ours",
           "benchmarks.training.keras_dlrm", "benchmarks.training.torchrec_dlrm",
           "deploy.horovod.apply_patches", "deploy.horovod.environment"}  # fmt: skip


def _modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if '__name__ == "__main__"' in path.read_text():
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield name.removesuffix(".__main__")


PROGRAMS = [*SCRIPTS, *(name for name in _modules() if name not in WORKERS)]


def command(program, *options):
    started = [program] if program.endswith(".py") else ["-m", program]
    return [sys.executable, *options, *started, "--help"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_missing_package_is_one_line_that_says_what_to_do(program):
    done = subprocess.run(
        command(program, "-S"), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if not program.endswith(".py") and not program.startswith("dataset.") and not done.returncode:
        return  # It imports what it needs later than its --help.
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: the package ")
    assert "make venv" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_missing_module_of_ours_is_a_traceback(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        "from storage import program_start\nprogram_start.begin()\nimport dataset.nothing"
    )
    done = subprocess.run(
        [sys.executable, str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" in done.stderr


# Those that import no TensorFlow.
@pytest.mark.parametrize(
    "program",
    [name for name in PROGRAMS if not name.startswith(("benchmarks.", "deploy."))],
)
def test_help_onto_a_full_disk_is_one_line(program):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(program), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device\n"
