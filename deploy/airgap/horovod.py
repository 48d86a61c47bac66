"""Horovod for a bundle of several ranks."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from deploy.airgap.packages import ROOT


def install(python: pathlib.Path, log: pathlib.Path) -> None:
    """Builds Horovod against the bundle's TensorFlow: Gloo, exchanges through the processors.

    Args:
        python: path of the bundle's interpreter.
        log: file for what the build prints.

    Raises:
        RuntimeError: it did not build.
    """
    tools = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    environment = {
        **os.environ,
        "PATH": tools,
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITHOUT_MPI": "1",
        "MAKEFLAGS": f"-j{os.cpu_count() or 1}",
    }
    command = [
        # Its build imports TensorFlow by the interpreter that it runs in: the bundle's own.
        python, "-m", "pip", "install", "--disable-pip-version-check", "--no-build-isolation",
        "--no-cache-dir", "--no-compile", "--no-binary", "horovod", "--constraint",
        ROOT / "constraints.txt", "horovod",
    ]  # fmt: skip
    with open(log, "w") as file:
        done = subprocess.run(
            list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, env=environment,
            check=False,
        )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join(pathlib.Path(log).read_text().splitlines()[-20:])
        raise RuntimeError(f"Horovod did not build; the whole log is {log}:\n{tail}")
