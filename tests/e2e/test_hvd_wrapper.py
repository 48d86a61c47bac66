"""hvd_wrapper.sh under the variables of each launcher."""

import os
import re
import shutil
import subprocess
import sys
import venv

import pytest

from tests.support.paths import ROOT
from tests.support.training.launchers import variables

WRAPPER = ROOT / "hvd_wrapper.sh"
REPORT = (
    'echo "gpu=${CUDA_VISIBLE_DEVICES-unset} omp=$OMP_NUM_THREADS intra=$TF_NUM_INTRAOP_THREADS '
    'inter=$TF_NUM_INTEROP_THREADS cores=$(taskset -pc $$ | sed "s/.*: //")"'
)


def place(rank, size, launcher="gloo"):
    return variables(launcher, rank, size, rank, size)


def run(extra, command=("bash", "-c", REPORT), path=None):
    keep = {"PATH": path or os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [str(WRAPPER), *command], env={**keep, **extra}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip


def fake_gpus(folder, count, cuda=None):
    """Returns a PATH with an nvidia-smi that lists `count` GPUs, and a Python.

    Its TensorFlow is built with CUDA (`cuda` is True), for the CPU (False), or missing (None).
    """
    venv.create(folder / "venv", symlinks=True)
    if cuda is not None:
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        write_tensorflow(packages, BUILD_INFO.format(cuda))
    tool = folder / "venv" / "bin" / "nvidia-smi"
    listing = "".join(f"GPU {i}: NVIDIA H200 (UUID: GPU-{i})\n" for i in range(count))
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}END\n")
    tool.chmod(0o755)
    return f"{tool.parent}:{os.environ['PATH']}"


# As TensorFlow's build writes it.
BUILD_INFO = (
    "import collections\n"
    "build_info = collections.OrderedDict([('cpu_compiler', '/usr/lib/llvm-18/bin/clang'), "
    "('is_cuda_build', {}), ('is_rocm_build', False)])\n"
)


def write_tensorflow(packages, build_info):
    """Writes a TensorFlow that cannot be imported; returns its file of build information."""
    folder = packages / "tensorflow" / "python" / "platform"
    folder.mkdir(parents=True)
    (packages / "tensorflow" / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "build_info.py").write_text(build_info)
    return folder / "build_info.py"


@pytest.mark.parametrize("cuda", [True, None])
@pytest.mark.parametrize("launcher", ["gloo", "slurm"])
def test_binds_the_gpu_of_the_local_rank(launcher, cuda, tmp_path):
    result = run(place(3, 8, launcher), path=fake_gpus(tmp_path, 8, cuda))
    assert "gpu=3 " in result.stdout
    assert "local rank 3 of 8: CUDA_VISIBLE_DEVICES=3 " in result.stdout


def test_binds_no_gpu_for_a_tensorflow_without_cuda(tmp_path):
    path = fake_gpus(tmp_path, 2, False)
    # With more ranks than GPUs, too.
    for command in (("bash", "-c", REPORT), (str(tmp_path / "venv/bin/python"), "-c", PRINT)):
        result = run(place(3, 4), command, path=path)
        assert result.returncode == 0, result.stderr
        assert "gpu=unset" in result.stdout
        assert (
            ": no GPU: TensorFlow is built for the CPU only (nvidia-smi lists 2)" in result.stdout
        )
    given = run({**place(0, 1), "CUDA_VISIBLE_DEVICES": "1"}, path=path).stdout
    assert "gpu=1 " in given and ": CUDA_VISIBLE_DEVICES=1 (as given)" in given


PRINT = "import os; print('gpu=' + os.environ.get('CUDA_VISIBLE_DEVICES', 'unset'))"


@pytest.mark.parametrize("cuda", [True, False])
def test_first_tensorflow_on_the_import_path_decides(cuda, tmp_path):
    path = fake_gpus(tmp_path, 1, not cuda)
    other = tmp_path / "other"
    file = write_tensorflow(other, BUILD_INFO.format(cuda))
    extra = {**place(0, 1), "PYTHONPATH": f"{tmp_path / 'nowhere'}:{other}"}
    assert ("gpu=0 " if cuda else "gpu=unset ") in run(extra, path=path).stdout
    # Unknown: the GPU is bound.
    for text in ("build_info = {}", "", None):
        file.unlink() if text is None else file.write_text(text)
        assert "gpu=0 " in run(extra, path=path).stdout


@pytest.mark.parametrize("given", ["5", ""])
def test_keeps_given_devices_and_thread_counts(given, tmp_path):
    extra = {**place(1, 2), "CUDA_VISIBLE_DEVICES": given, "OMP_NUM_THREADS": "7"}
    result = run(extra, path=fake_gpus(tmp_path, 8))
    assert f"gpu={given} omp=7 " in result.stdout
    assert f": CUDA_VISIBLE_DEVICES={given} " in result.stdout


def test_more_ranks_than_gpus_is_an_error(tmp_path):
    result = run(place(2, 4), path=fake_gpus(tmp_path, 2))
    assert result.returncode == 2
    for word in ("local rank 2 ", "4 local ranks", "2 GPUs", "CUDA_VISIBLE_DEVICES=-1"):
        assert word in result.stderr


@pytest.mark.parametrize(("launcher", "size"), [("gloo", 1), ("gloo", 3), ("slurm", 2)])
def test_ranks_share_all_cores(launcher, size):
    available = os.sched_getaffinity(0)
    shares = []
    for rank in range(size):
        result = run(place(rank, size, launcher))
        assert result.returncode == 0, result.stderr
        report = result.stdout.splitlines()[-1]
        share = set()
        for part in report.partition("cores=")[2].split(","):
            first, _, last = part.partition("-")
            share |= set(range(int(first), int(last or first) + 1))
        assert f"omp={len(share)} intra={len(share)}" in report
        shares.append(share)
    assert set.union(*shares) == available
    if size <= len(available):
        assert sum(map(len, shares)) == len(available), "ranks share a core"


def test_passes_on_arguments_and_exit_code():
    result = run({}, ("python3", "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "*"))
    assert result.returncode == 7
    assert "['a b', '*']" in result.stdout


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "2>&-", ">&- 2>&- <&-", "| true"])
def test_starts_the_command_with_any_standard_output(redirection, tmp_path):
    done = tmp_path / "done"
    line = f"'{WRAPPER}' sh -c 'sleep 0.2; echo done >{done}; exit 7' {redirection}"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode in (7, 141)
    assert done.read_text() == "done\n"


def test_a_wrong_local_rank_is_one_line_of_error():
    result = run({**place(1, 2), "HOROVOD_LOCAL_RANK": "5"})
    assert result.returncode == 2
    assert re.fullmatch("hvd_wrapper: HOROVOD_LOCAL_RANK=5, .*\n", result.stderr)
    assert result.stdout == ""


def test_a_path_without_python_is_one_line_of_error(tmp_path):
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    result = run({}, path=str(tmp_path))
    assert result.returncode == 2
    assert re.fullmatch("hvd_wrapper: .*python3.*\n", result.stderr)


def test_runs_with_the_python_of_the_command(tmp_path):
    for tool in ("bash", "dirname", "sed", "tr", "seq", "nproc", "taskset"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    result = run({}, (sys.executable, "-c", "print(7)"), path=str(tmp_path))
    assert result.stdout.endswith("\n7\n"), result.stderr


def test_dlrm_bind_chooses_the_binding():
    assert "(bound)" not in run({**place(0, 2), "DLRM_BIND": "none"}).stdout
    result = run({**place(0, 2), "DLRM_BIND": "core"})
    assert result.returncode == 2
    assert re.fullmatch("hvd_wrapper: DLRM_BIND=core: .*cores.*none.*\n", result.stderr)


def test_without_a_command_prints_the_usage():
    result = run({}, ())
    assert result.returncode == 2
    assert "usage:" in result.stderr
