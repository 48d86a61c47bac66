"""Starts Python programs on one or several ranks, as a user would."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys

import psutil

from tests.support.paths import ROOT

# Start-up notices that newer versions of TensorFlow print for any log level.
_LOG = re.compile(
    r"(\[\d+\]<stderr>:)?"
    r"(WARNING: All log messages before absl::InitializeLog\(\)|[IW]0000 \d\d:\d\d:\d+\.\d+ )"
)


def command(ranks, *arguments, quick=True):
    """Returns the command line that starts `python3 ARGUMENTS` on the ranks.

    If `quick`, `quick_horovodrun.py` replaces horovodrun, which saves 5 s of processor time.
    """
    program = ["./hvd_wrapper.sh", sys.executable, *map(str, arguments)]
    if ranks == 1:
        return program
    horovodrun = [str(pathlib.Path(sys.executable).parent / "horovodrun")]
    if quick:
        horovodrun = [sys.executable, str(ROOT / "tests" / "support" / "quick_horovodrun.py")]
    return [*horovodrun, "--gloo", "-np", str(ranks), *program]


def environment(**extra):
    """Returns the environment for it: without a launcher's variables, with a quiet TensorFlow.

    Ranks may reach each other late on a loaded machine; Gloo's own limit is 30 seconds.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HOROVOD_", "OMPI_"))}
    path = f"{pathlib.Path(sys.executable).parent}:{clean['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**clean, **own, "HOROVOD_GLOO_TIMEOUT_SECONDS": "600", **extra}


def run(ranks, *arguments, timeout=300, **extra):
    """Runs a program to its end; returns the CompletedProcess."""
    process = subprocess.Popen(
        command(ranks, *arguments), cwd=ROOT, env=environment(**extra), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        print(*process.communicate(), sep="\n")
        raise
    err = "".join(line for line in err.splitlines(True) if not _LOG.match(line))
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def ranks_of(process):
    """Returns {rank: psutil.Process} of the running ranks of main.py below a launcher."""
    found = {}
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return found
    for child in children:
        with contextlib.suppress(psutil.Error):
            rank = child.environ().get("HOROVOD_RANK")
            if rank and child.name().startswith("python") and "main.py" in child.cmdline():
                found[int(rank)] = child
    return found
