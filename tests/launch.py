"""Starts a Python script on several ranks with horovodrun, as a user would."""

import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def command(ranks, *arguments, wrapper=True):
    """Returns the command line that starts `python3 arguments` on the ranks."""
    program = [*(["./hvd_wrapper.sh"] if wrapper else []), sys.executable, *map(str, arguments)]
    if ranks == 1:
        return program
    horovodrun = pathlib.Path(sys.executable).parent / "horovodrun"
    # Told that it is Gloo, horovodrun need not import TensorFlow to find out about MPI.
    return [str(horovodrun), "--gloo", "-np", str(ranks), *program]


def environment(**extra):
    """Returns the environment for it: the interpreter's own tools first, TensorFlow quiet."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HOROVOD_", "OMPI_"))}
    path = f"{pathlib.Path(sys.executable).parent}:{clean['PATH']}"
    return {**clean, "PATH": path, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **extra}


def run(ranks, *arguments, timeout=300, **extra):
    """Runs to the end; returns the CompletedProcess with what it printed."""
    process = subprocess.Popen(
        command(ranks, *arguments), cwd=ROOT, env=environment(**extra), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
