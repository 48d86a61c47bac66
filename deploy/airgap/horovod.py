"""Builds Horovod for bundles that run several ranks."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from deploy.airgap import BundleError, packages


def install(python: pathlib.Path, log: pathlib.Path) -> None:
    """Builds and installs Horovod with Gloo for the TensorFlow of the bundle's interpreter.

    The build's output goes to `log`.

    Raises:
        BundleError: the build failed.
    """
    tools = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    build = packages.ROOT / "deploy" / "horovod" / "build.sh"
    with open(log, "w") as file:
        done = subprocess.run(
            [build, "--environment", python.parent.parent], stdout=subprocess.PIPE, stderr=file,
            text=True, check=False, env={**os.environ, "PATH": tools},
        )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-20:])
        raise BundleError(f"Horovod did not build; the end of {log}:\n{tail}", path=log)
    packages.pip(
        "install", "--quiet", "--no-compile", "--no-deps", "--no-index", done.stdout.strip(),
        python=python,
    )  # fmt: skip
