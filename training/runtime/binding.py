"""The program behind `hvd_wrapper.sh`: prints the local rank and the GPU for it.

    python3 -m training.runtime.binding

prints the local rank, the local size, the value for CUDA_VISIBLE_DEVICES ("" to leave it unset) and
an explanation, one a line. It needs only the standard library.
"""

from __future__ import annotations

import os
import sys

from training.runtime import gpus, launcher
from training.runtime.errors import UserError


def main() -> int:
    """Prints the binding; returns the exit code."""
    try:
        place = launcher.read()
        device, words = _device(place)
    except UserError as error:
        print(f"hvd_wrapper: {error}", file=sys.stderr)
        return error.exit_code
    print(place.local_rank, place.local_size, device, words, sep="\n")
    return 0


def _device(place: launcher.Place) -> tuple[str, str]:
    given = os.environ.get(gpus.VARIABLE)
    if given is not None:
        return "", f"{gpus.VARIABLE}={given} (as given)"
    devices = gpus.listed()
    if not devices:
        return "", "no GPU"
    if place.local_rank >= len(devices):
        found = f"{len(devices)} GPU{'s' * (len(devices) != 1)}"
        raise UserError(
            f"local rank {place.local_rank} has no GPU: {place.local_size} local ranks, {found}; "
            f"start fewer, or set {gpus.VARIABLE}=-1 to use the CPU"
        )
    device = devices[place.local_rank]
    return device, f"{gpus.VARIABLE}={device} (nvidia-smi lists {len(devices)})"


if __name__ == "__main__":
    sys.exit(main())
