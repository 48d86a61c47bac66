"""The patches and the build script of Horovod."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from deploy.horovod import apply_patches
from tests.support import launch

FOLDER = pathlib.Path(apply_patches.__file__).parent
BUILD = FOLDER / "build.sh"
WHEELS = pathlib.Path(os.environ.get("DLRM_HOROVOD_WHEELS") or launch.ROOT / "build" / "horovod")
PATCHES = sorted(apply_patches.PATCHES.glob("*.patch"))


def archive(folder):
    """Returns the path of the pinned source, downloaded if it is not in the wheel cache."""
    requirement, sha256 = re.fullmatch(
        r"(horovod==\S+) --hash=sha256:([0-9a-f]{64})\n", (FOLDER / "source.txt").read_text()
    ).groups()
    name = requirement.replace("==", "-") + ".tar.gz"
    path = WHEELS / name
    if not path.exists():
        path = folder / name
        pip = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps",
             "--no-build-isolation", "--no-binary", "horovod", "--dest", folder,
             "-r", FOLDER / "source.txt"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if pip.returncode != 0:
            pytest.skip(f"Horovod's source is not in {WHEELS}, and pip cannot download it")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    subprocess.run(["tar", "-xzf", archive(folder), "-C", folder], check=True)
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def patched(source, tmp_path_factory):
    """The patched source: (folder, {patch: changed paths})."""
    folder = shutil.copytree(source, tmp_path_factory.mktemp("patched") / "source")
    return folder, {patch: apply_patches.apply(patch, folder) for patch in PATCHES}


def test_patches_apply_to_pinned_source(source, patched):
    folder, changes = patched
    for patch, paths in changes.items():
        for path in paths:
            assert f"+++ b/{path}\n" in patch.read_text()
            assert (folder / path).read_bytes() != (source / path).read_bytes()
    for python in (folder / "horovod" / "runner").rglob("*.py"):
        assert "distutils" not in python.read_text()
    for python in [*folder.glob("horovod/**/*.py"), *folder.glob("cmake/*.py")]:
        compile(python.read_text(), str(python), "exec")


@pytest.mark.skipif(not shutil.which("patch"), reason="no patch program to compare with")
def test_patch_program_gives_same_source(source, patched, tmp_path):
    folder, changes = patched
    theirs = shutil.copytree(source, tmp_path / "theirs")
    for patch in PATCHES:
        with open(patch) as text:
            subprocess.run(["patch", "-s", "-p1", "-F0"], stdin=text, cwd=theirs, check=True)
    for path in {path for paths in changes.values() for path in paths}:
        assert (folder / path).read_bytes() == (theirs / path).read_bytes(), path


def test_patch_that_does_not_apply_changes_nothing(patched):
    folder, changes = patched
    patch = next(path for path in PATCHES if "missing-standard-headers" in path.name)
    before = [(folder / path).read_bytes() for path in changes[patch]]
    with pytest.raises(ValueError, match=r"horovod/common/common\.h:\d+: "):
        apply_patches.apply(patch, folder)
    assert [(folder / path).read_bytes() for path in changes[patch]] == before


def build(*arguments, **variables):
    """Runs build.sh; returns the CompletedProcess."""
    return subprocess.run(
        [BUILD, *arguments], env={**os.environ, **variables}, capture_output=True, text=True,
        timeout=1800, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "variables", "names"),
    [
        ([], {}, ["--tensorflow", "--environment"]),
        (["--nccl", "--wheel"], {}, ["--wheel"]),
        (["--tensorflow"], {}, ["--tensorflow"]),
        (["--tensorflow", "2.21"], {}, ["--tensorflow", "2.21"]),
        (["--tensorflow", "2.21.0", "--environment", "x"], {}, ["--tensorflow", "--environment"]),
        (["--environment", "x", "--python", "y"], {}, ["--environment", "--python"]),
        (["--environment", "/nowhere"], {}, ["--environment", "/nowhere"]),
        (["--tensorflow", "2.21.0", "--python", "python0"], {}, ["python0"]),
        (["--tensorflow", "2.21.0"], {"CXX": "no-compiler"}, ["no-compiler"]),
        (["--tensorflow", "2.21.0"], {"CXX": "false"}, ["false", "C++17"]),
        (["--tensorflow", "2.21.0"], {"DLRM_HOROVOD_WHEELS": "/dev/null/x"}, ["/dev/null/x"]),
        (["--tensorflow", "2.21.0", "--nccl"], {"HOROVOD_CUDA_HOME": "/x"},
         ["--nccl", "/x/bin/nvcc"]),
    ],
)  # fmt: skip
def test_invalid_input_is_one_line(tmp_path, arguments, variables, names):
    done = build(*arguments, **{"DLRM_HOROVOD_WHEELS": str(tmp_path), **variables})
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("horovod: ") and all(name in done.stderr for name in names)
    assert done.stderr.count("\n") == 1


TOOLS = (
    "as awk basename bash cat cp cut dirname env g++ gcc grep head ld make mkdir mktemp mv nproc "
    "printf rm sed sha256sum sort tail tr uname"
)


@pytest.mark.parametrize("missing", ["make", "mpicxx", "CMake"])
def test_missing_tool_is_named(tmp_path, missing):
    tools, environment = tmp_path / "bin", tmp_path / "environment"
    tools.mkdir()
    for tool in TOOLS.split():
        if tool != missing and shutil.which(tool):
            (tools / tool).symlink_to(shutil.which(tool))
    python = environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho tensorflow 2.21.0\n")
    python.chmod(0o755)
    options = ["--mpi"] if missing == "mpicxx" else []
    wheels = str(tmp_path / "wheels")
    done = build(
        "--environment", environment, *options, PATH=str(tools), DLRM_HOROVOD_WHEELS=wheels
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert missing in done.stderr


def test_environment_without_tensorflow_is_named(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    done = build("--environment", tmp_path / "env", DLRM_HOROVOD_WHEELS=str(tmp_path / "wheels"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "TensorFlow" in done.stderr and str(tmp_path / "env") in done.stderr


@pytest.mark.slow
def test_wheel_is_built_once_and_imports(tmp_path):
    import tensorflow as tf

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    shutil.copy(archive(tmp_path), wheels)
    for attempt in range(2):
        start = time.monotonic()
        done = build(
            "--environment", sys.prefix, "--output", tmp_path / str(attempt),
            DLRM_HOROVOD_WHEELS=str(wheels),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("building horovod" in done.stderr) == (attempt == 0)
    assert time.monotonic() - start < 30
    wheel = pathlib.Path(done.stdout.strip())
    assert wheel.name.startswith(f"horovod-0.28.1+tf{tf.__version__}-cp") and wheel.is_file()
    target = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--target", target, wheel],
        check=True,
    )  # fmt: skip
    code = "import horovod.tensorflow as hvd; hvd.init(); print(hvd.__file__)"
    check = subprocess.run(
        [sys.executable, "-c", code], env=launch.environment(PYTHONPATH=str(target)), cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check.returncode == 0 and str(target) in check.stdout, check.stderr
