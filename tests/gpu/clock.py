"""Times calls on a GPU by CUDA events, and reads the GPU's clocks."""

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


def _hold(seconds):
    """Keeps the device busy, so that calls queue up behind it and start without waiting."""
    import torch

    # Cycles of a clock of about 2 GHz; a private function, without which only short calls suffer.
    sleep = getattr(torch.cuda, "_sleep", None)
    if sleep is not None:
        sleep(int(min(0.1, seconds) * 2e9))


def measure(calls, repeats=30, warmup=4):
    """Times one call; ``calls`` are variants over different buffers, taken in turn.

    All repetitions are queued while the device is kept busy: the time that the host needs to start
    a call, often longer than a small kernel, is then not part of what is measured.

    Returns:
        seconds (median), seconds_low and seconds_high (first and last tenth), seconds_in_a_row
        (mean of all without events between them), host_seconds (until a call is queued), and
        waited: whether the device had to wait for the host after all.
    """
    import torch

    def queue():
        begin = time.perf_counter()
        for k in range(repeats):
            calls[k % len(calls)]()
        return time.perf_counter() - begin

    for k in range(max(warmup, len(calls))):
        calls[k % len(calls)]()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    calls[0]()
    one = time.perf_counter() - begin
    torch.cuda.synchronize()

    held = 1e-3 + 2 * repeats * one
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2 * repeats)]
    _hold(held)
    begin = time.perf_counter()
    for k in range(repeats):
        events[2 * k].record()
        calls[k % len(calls)]()
        events[2 * k + 1].record()
    queued = time.perf_counter() - begin
    torch.cuda.synchronize()
    times = [events[2 * k].elapsed_time(events[2 * k + 1]) / 1e3 for k in range(repeats)]

    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _hold(held)
    first.record()
    host = queue()
    last.record()
    torch.cuda.synchronize()
    low, median, high = (float(v) for v in np.quantile(times, [0.1, 0.5, 0.9]))
    return {
        "seconds": median, "seconds_low": low, "seconds_high": high,
        "seconds_in_a_row": first.elapsed_time(last) / 1e3 / repeats,
        "host_seconds": host / repeats, "waited": queued > min(0.1, held) + sum(times),
    }  # fmt: skip


def torch_dtype(dtype):
    """PyTorch's name of an element type."""
    import torch

    return {FLOAT32: torch.float32, FLOAT16: torch.float16, BFLOAT16: torch.bfloat16}[dtype]


def entry(library, size, ours, peer=None, goal=None, repeats=30):
    """Measures one operation.

    Args:
        size: Bytes that it must move at least.
        ours: Calls of the kernel, over different buffers.
        peer: Function returning calls of PyTorch's formulation, or None.
        goal: Share of the copy bandwidth that is asked for, or None.
    """
    result = {"bytes": size, **measure(ours, repeats), "launch": library.newest_launch()}
    if goal is not None:
        result["goal"] = goal
    if peer is not None:
        # PyTorch's formulation may need memory that is not there: no fault of the kernel.
        try:
            result["torch"] = measure(peer(), repeats=10)
        except RuntimeError as error:
            result["torch_error"] = str(error).partition("\n")[0][:200]
    return result


def device_state():
    """Clocks, power, temperature and the driver's version as nvidia-smi tells them, or {}."""
    if shutil.which("nvidia-smi") is None:
        return {}
    # Older drivers know the last one by another name, and refuse the whole list for it.
    return _query(_STATE) or _query(_STATE[:-1])


def _query(names):
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    words = [word.strip() for word in done.stdout.strip().split(",")]
    return dict(zip(names, words)) if done.returncode == 0 and len(words) == len(names) else {}
