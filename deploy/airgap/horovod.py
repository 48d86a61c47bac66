"""Horovod for a bundle of several ranks."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from deploy.airgap import packages


def install(python: pathlib.Path, log: pathlib.Path) -> None:
    """Builds Horovod against the bundle's TensorFlow: Gloo, exchanges through the processors.

    Args:
        python: path of the bundle's interpreter, in its environment's bin folder.
        log: file for what the build prints.

    Raises:
        RuntimeError: it did not build.
    """
    tools = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    command = [
        packages.ROOT / "deploy" / "horovod" / "build.sh", "--environment", python.parent.parent,
    ]  # fmt: skip
    with open(log, "w") as file:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=file, text=True, check=False,
            env={**os.environ, "PATH": tools},
        )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-20:])
        raise RuntimeError(f"Horovod did not build; {log} has its last lines:\n{tail}")
    packages.pip(
        "install", "--quiet", "--no-compile", "--no-deps", "--no-index", done.stdout.strip(),
        python=python,
    )  # fmt: skip
