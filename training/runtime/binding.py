"""Prints the local rank of this process and its GPU, for `hvd_wrapper.sh`.

    python3 -m training.runtime.binding

prints four lines: the local rank, the local size, the value for CUDA_VISIBLE_DEVICES (empty: keep
it unchanged) and an explanation. Imports only the standard library.
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
    if place.local_rank >= len(devices):
        raise UserError(
            f"local rank {place.local_rank} has no GPU: {place.local_size} local ranks, "
            f"{gpus.count(len(devices), 'GPU')}; start fewer ranks, or set {gpus.VARIABLE}=-1 to "
            "use the CPU"
        )
    device = devices[place.local_rank]
    return device, f"{gpus.VARIABLE}={device} (nvidia-smi lists {len(devices)})"


if __name__ == "__main__":
    sys.exit(main())
