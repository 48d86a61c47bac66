"""Prints the local rank of this process and its GPU, for `hvd_wrapper.sh`.

    python3 -m training.runtime.binding

prints four lines: the local rank, the local size, the value for CUDA_VISIBLE_DEVICES (empty: keep
it unchanged) and an explanation. Imports only the standard library.
"""

from __future__ import annotations

import os
import re
import site
import sys
from collections.abc import Iterator

from training.runtime import gpus, launcher
from training.runtime.errors import UserError

_BUILD_INFO = os.path.join("tensorflow", "python", "platform", "build_info.py")


def main() -> int:
    """Prints the binding; returns the exit code."""
    try:
        place = launcher.read()
        device, explanation = _device(place)
    except UserError as error:
        print(f"hvd_wrapper: {error}", file=sys.stderr)
        return error.exit_code
    print(place.local_rank, place.local_size, device, explanation, sep="\n")
    return 0


def _device(place: launcher.Place) -> tuple[str, str]:
    given = os.environ.get(gpus.VARIABLE)
    if given is not None:
        return "", f"{gpus.VARIABLE}={given} (as given)"
    devices = gpus.listed()
    if not devices:
        return "", "no GPU"
    if _has_cpu_tensorflow():
        # The trainer explains how to install another.
        return "", f"no GPU: TensorFlow is built for the CPU only (nvidia-smi lists {len(devices)})"
    if place.local_rank >= len(devices):
        raise UserError(
            f"local rank {place.local_rank} has no GPU: {place.local_size} local ranks, "
            f"{gpus.count(len(devices), 'GPU')}; start fewer ranks, or set {gpus.VARIABLE}=-1 to "
            "use the CPU"
        )
    device = devices[place.local_rank]
    return device, f"{gpus.VARIABLE}={device} (nvidia-smi lists {len(devices)})"


def _has_cpu_tensorflow() -> bool:
    """Returns whether this Python's TensorFlow is known to be built without CUDA.

    Reads the build information of the first TensorFlow on the import path: importing TensorFlow
    takes seconds, and its distribution may have any name.
    """
    for folder in _import_path():
        if not os.path.isdir(os.path.join(folder, "tensorflow")):
            continue
        try:
            with open(os.path.join(folder, _BUILD_INFO)) as file:
                return bool(re.search(r"""['"]is_cuda_build['"]\s*[,:]\s*False""", file.read()))
        except (OSError, UnicodeError):
            return False
    return False


def _import_path() -> Iterator[str]:
    """Yields the folders that the command's Python searches for packages, without .pth files.

    The wrapper starts Python with -ES, which leaves out `PYTHONPATH`, environments and packages.
    """
    yield from filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    # With -S, sys.prefix is that of the interpreter that an environment was created with.
    environment = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
    try:
        with open(os.path.join(environment, "pyvenv.cfg")) as file:
            settings = file.read()
        yield from site.getsitepackages([environment])
        if not re.search(r"(?im)^include-system-site-packages\s*=\s*true", settings):
            return
    except OSError:
        pass
    yield site.getusersitepackages()
    yield from site.getsitepackages([sys.base_prefix, sys.base_exec_prefix])


if __name__ == "__main__":
    sys.exit(main())
