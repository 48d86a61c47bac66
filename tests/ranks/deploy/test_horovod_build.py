"""Horovod's patches and build script, and the collectives of the Horovod that is installed."""

import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from deploy.horovod import apply_patches
from tests.support import launch

FOLDER = pathlib.Path(apply_patches.__file__).parent
BUILD = FOLDER / "build.sh"
WHEELS = pathlib.Path(os.environ.get("DLRM_HOROVOD_WHEELS") or launch.ROOT / "build" / "horovod")
PATCHES = sorted(apply_patches.PATCHES.glob("*.patch"))
WORKER = "tests/support/deploy/horovod_ranks.py"


def archive(folder):
    """Returns the path of the pinned source, from the wheels' folder or by pip."""
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
            pytest.skip(f"Horovod's source is neither in {WHEELS} nor did pip download it")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    subprocess.run(["tar", "-xzf", archive(folder), "-C", folder], check=True)
    return next(path for path in folder.iterdir() if path.is_dir())


def test_patches_fit_the_pinned_source(source, tmp_path):
    patched = shutil.copytree(source, tmp_path / "patched")
    for patch in PATCHES:
        for changed in apply_patches.apply(patch, patched):
            assert f"+++ b/{changed}\n" in patch.read_text()
            assert (patched / changed).read_bytes() != (source / changed).read_bytes()
    # What the errors come from is gone.
    for python in (patched / "horovod" / "runner").rglob("*.py"):
        assert "distutils" not in python.read_text()
    for python in [*patched.glob("horovod/**/*.py"), *patched.glob("cmake/*.py")]:
        compile(python.read_text(), str(python), "exec")


@pytest.mark.skipif(not shutil.which("patch"), reason="no patch program to compare with")
def test_patch_program_gives_the_same_source(source, tmp_path):
    ours, theirs = (shutil.copytree(source, tmp_path / name) for name in ("ours", "theirs"))
    for patch in PATCHES:
        changed = apply_patches.apply(patch, ours)
        with open(patch) as text:
            subprocess.run(["patch", "-s", "-p1", "-F0"], stdin=text, cwd=theirs, check=True)
        for path in changed:
            assert (ours / path).read_bytes() == (theirs / path).read_bytes(), patch.name


def test_patch_that_does_not_fit_changes_nothing(source, tmp_path):
    patch = next(path for path in PATCHES if "missing-standard-headers" in path.name)
    patched = shutil.copytree(source, tmp_path / "patched")
    apply_patches.apply(patch, patched)
    before = (patched / "horovod/common/common.h").read_bytes()
    with pytest.raises(ValueError, match=r"horovod/common/common\.h:\d+: expected .*, found "):
        apply_patches.apply(patch, patched)
    assert (patched / "horovod/common/common.h").read_bytes() == before


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_patch_head_says_error_versions_and_cure(patch):
    head = patch.read_text().split("\n--- a/")[0]
    title, blank, *rest = head.splitlines()
    assert re.match(r"[A-Z].{5,70}[^.]$", title) and blank == ""
    assert [line.split(":")[0] for line in rest if re.match(r"[A-Z][a-z ]+: ", line)] == [
        "Error", "Needed by", "Cure",
    ]  # fmt: skip
    needed = next(line for line in rest if line.startswith("Needed by: "))
    assert re.search(r"(TensorFlow|g\+\+|CMake|Python) >= \d", needed)
    assert all(len(line) <= 100 for line in head.splitlines())


def build(*arguments, **variables):
    """Runs build.sh; returns the CompletedProcess."""
    return subprocess.run(
        [BUILD, *arguments], env={**os.environ, **variables}, capture_output=True, text=True,
        timeout=1800, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ([], {}, "expected --tensorflow or --environment"),
        (["--nccl", "--wheel"], {}, "unknown argument --wheel"),
        (["--tensorflow"], {}, "--tensorflow needs a value"),
        (["--tensorflow", "2.21"], {}, "expected a full version such as 2.21.0, found 2.21"),
        (["--tensorflow", "2.21.0", "--environment", "x"], {}, "exclude each other"),
        (["--environment", "x", "--python", "y"], {}, "exclude each other"),
        (["--environment", "/nowhere"], {}, "found no folder /nowhere"),
        (["--tensorflow", "2.21.0", "--python", "python0"], {}, "python0 was not found"),
        (["--tensorflow", "2.21.0"], {"CXX": "no-compiler"}, "no-compiler was not found"),
        (["--tensorflow", "2.21.0"], {"CXX": "false"}, "false does not compile C++17"),
        (["--tensorflow", "2.21.0"], {"DLRM_HOROVOD_WHEELS": "/dev/null/x"}, "cannot be made"),
        (["--tensorflow", "2.21.0", "--nccl"], {"HOROVOD_CUDA_HOME": "/x"},
         "/x/bin/nvcc was not found"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path, arguments, variables, words):
    done = build(*arguments, **{"DLRM_HOROVOD_WHEELS": str(tmp_path), **variables})
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("horovod: ") and words in done.stderr
    assert done.stderr.count("\n") == 1


TOOLS = [
    "as",
    "awk",
    "basename",
    "bash",
    "cat",
    "cp",
    "cut",
    "dirname",
    "env",
    "g++",
    "gcc",
    "grep",
    "head",
    "ld",
    "make",
    "mkdir",
    "mktemp",
    "mv",
    "nproc",
    "printf",
    "rm",
    "sed",
    "sha256sum",
    "sort",
    "tail",
    "tr",
    "uname",
]


@pytest.mark.parametrize("missing", ["make", "mpicxx", "CMake"])
def test_missing_tool_is_named(tmp_path, missing):
    tools, environment = tmp_path / "bin", tmp_path / "environment"
    tools.mkdir()
    for tool in TOOLS:
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
    assert f"{missing} was not found" in done.stderr


def test_environment_without_tensorflow_is_one_line(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    done = build("--environment", tmp_path / "env", DLRM_HOROVOD_WHEELS=str(tmp_path / "wheels"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "expected TensorFlow in the environment" in done.stderr


@pytest.mark.slow
def test_wheel_is_built_once_and_says_what_for(tmp_path):
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


@pytest.mark.launches
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_collectives_agree_with_numpy(ranks):
    done = launch.run(ranks, WORKER, "collectives")
    assert done.returncode == 0, done.stderr
    for rank in range(ranks):
        assert f"rank {rank} of {ranks}: collectives agree with NumPy" in done.stdout


@pytest.mark.launches
@pytest.mark.parametrize("mode", ["static", "elastic", "elastic-resume"])
def test_ranks_end_when_one_dies(tmp_path, mode):
    options = []
    if mode != "static":
        hosts = tmp_path / "hosts.sh"
        hosts.write_text("#!/bin/sh\necho localhost:2\n")
        hosts.chmod(0o755)
        options = ["--min-np", "2", "--host-discovery-script", str(hosts),
                   "--network-interface", "lo", "--elastic-timeout", "60"]  # fmt: skip
    launcher = [sys.executable, str(launch.ROOT / "tests" / "quick_horovodrun.py")]
    process = subprocess.Popen(
        [*launcher, "--gloo", "-np", "2", *options, sys.executable, WORKER,
         "resume" if mode == "elastic-resume" else "die", str(tmp_path)],
        cwd=launch.ROOT, env=launch.environment(), text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        _, err = process.communicate(timeout=150)
        ended = time.time()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode != 0
    assert "exited with non-zero status" in err and "Exit code: 137" in err
    # Some of the survivors may be ended by the launcher before their own step fails.
    errors = [path.read_text() for path in tmp_path.glob("error.*")]
    assert set(errors) <= {"UnknownError"}
    assert ended - float((tmp_path / "died").read_text()) < 60
    pids = [int(path.name.split(".")[2]) for path in tmp_path.glob("pid.*")]
    assert len(pids) == 2 and not any(psutil.pid_exists(pid) for pid in pids)
