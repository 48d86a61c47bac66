"""Times calls on a GPU with CUDA events, and reads the GPU's clocks."""

import shutil
import subprocess
import time

import numpy as np

from tests.gpu.launchers import BFLOAT16, FLOAT16, FLOAT32

_STATE = (
    "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
    "temperature.gpu", "power.draw", "power.limit", "ecc.mode.current", "mig.mode.current",
    "clocks_event_reasons.active",
)  # fmt: skip


def hold(seconds):
    """Keeps the device busy, so that following calls are queued before they start."""
    import torch

    # In cycles of a clock of about 2 GHz. A private function: without it short calls read too long.
    sleep = getattr(torch.cuda, "_sleep", None)
    if sleep is not None:
        sleep(int(min(0.1, seconds) * 2e9))


def measure(calls, repeats=30, warmup=4):
    """Times one call; ``calls`` are variants over different buffers, used alternately.

    All repetitions are queued while the device is busy, so that the host's launch time, often
    longer than a small kernel, is not included.

    Returns:
        {seconds (median), seconds_low and seconds_high (10 % and 90 % quantile), waited (whether
        the device waited for the host)}.
    """
    import torch

    for k in range(max(warmup, len(calls))):
        calls[k % len(calls)]()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    calls[0]()
    one = time.perf_counter() - begin
    torch.cuda.synchronize()

    held = 1e-3 + 2 * repeats * one
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2 * repeats)]
    hold(held)
    begin = time.perf_counter()
    for k in range(repeats):
        events[2 * k].record()
        calls[k % len(calls)]()
        events[2 * k + 1].record()
    queued = time.perf_counter() - begin
    torch.cuda.synchronize()
    times = [events[2 * k].elapsed_time(events[2 * k + 1]) / 1e3 for k in range(repeats)]

    low, median, high = (float(v) for v in np.quantile(times, [0.1, 0.5, 0.9]))
    return {
        "seconds": median, "seconds_low": low, "seconds_high": high,
        "waited": queued > min(0.1, held) + sum(times),
    }  # fmt: skip


def use_tf32(enabled):
    """Lets PyTorch round the inputs of float32 matrix products to TF32, or not."""
    import torch

    # Not `torch.backends.cuda.matmul.allow_tf32`, which newer versions deprecate.
    torch.set_float32_matmul_precision("high" if enabled else "highest")


def torch_dtype(dtype):
    """Returns PyTorch's type for an element type of `launchers`."""
    import torch

    return {FLOAT32: torch.float32, FLOAT16: torch.float16, BFLOAT16: torch.bfloat16}[dtype]


def entry(library, size, ours, peer=None, goal=None, repeats=30, flop=None):
    """Measures one operation.

    Args:
        library: the launchers.
        size: minimum traffic in bytes.
        ours: calls of the kernel, over different buffers.
        peer: function that returns calls of PyTorch's equivalent, or None.
        goal: target share of the copy bandwidth, or None.
        repeats: number of timed calls.
        flop: floating-point operations of matrix products, or None.
    """
    result = {"bytes": size, **measure(ours, repeats), "launch": library.newest_launch()}
    if goal is not None:
        result["goal"] = goal
    if flop is not None:
        result["flop"] = flop
    if peer is not None:
        # PyTorch may run out of memory: not a failure of the kernel.
        try:
            result["torch"] = measure(peer(), repeats=10)
        except RuntimeError as error:
            result["torch_error"] = str(error).partition("\n")[0][:200]
    return result


def device_state():
    """Returns clocks, power, temperature and driver version from nvidia-smi, or {}."""
    if shutil.which("nvidia-smi") is None:
        return {}
    # Older drivers use another name for the last field and reject the complete query.
    return _query(_STATE) or _query(_STATE[:-1])


def _query(names):
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    words = [word.strip() for word in done.stdout.strip().split(",")]
    return dict(zip(names, words)) if done.returncode == 0 and len(words) == len(names) else {}
