"""The GPUs of this host: lists them, selects one per rank, checks that no two ranks share one."""

from __future__ import annotations

import ctypes
import glob
import os
import re
import shlex
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, NamedTuple

from training.runtime.errors import UserError

if TYPE_CHECKING:
    from training.runtime.process_group import ProcessGroup

VARIABLE = "CUDA_VISIBLE_DEVICES"
_RECORD_BYTES = 256
_DEVICE_FILE = ".device"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Device(NamedTuple):
    """The device that a rank computes on.

    `ordinal` is its CUDA device number, None for the CPU; `identity` is its UUID if known.
    """

    ordinal: int | None
    identity: str = ""


def listed() -> list[str]:
    """Returns the name, as in `CUDA_VISIBLE_DEVICES`, of each device that nvidia-smi lists.

    The instances of a partitioned GPU (MIG) are devices; the GPU itself is not.
    """
    try:
        found = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_listing(found.stdout)


def parse_listing(text: str) -> list[str]:
    """Returns the names of the devices in the output of `nvidia-smi --list-gpus`; see `listed`."""
    devices, gpu = [], None
    for line in text.splitlines():
        if match := re.match(r"GPU (\d+):", line):
            gpu = match[1]
            devices.append(gpu)
        elif match := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line):
            if devices and devices[-1] == gpu:
                devices.pop()
            devices.append(match[1])
    return devices


def on_host(root: str | os.PathLike = "/") -> str | None:
    """Returns the evidence that this host has a GPU, as text; None if it has none.

    Args:
        root: the folder that contains proc/ and dev/.
    """
    devices = listed()
    if devices:
        return f"nvidia-smi lists {count(len(devices), 'device')}"
    for pattern in ("proc/driver/nvidia/gpus/*", "dev/nvidia[0-9]*"):
        found = glob.glob(os.path.join(root, pattern))
        if found:
            return f"there is {sorted(found)[0]}"
    return None


def choose(local_rank: int) -> Device:
    """Selects one GPU for this process, if TensorFlow sees any; returns its `Device`.

    Under `hvd_wrapper.sh` only one is visible; otherwise each rank selects the GPU of its local
    rank. Call it before anything uses a GPU. `check` detects two ranks with the same GPU.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Device(None)
    ordinal = local_rank % len(gpus)
    if len(gpus) > 1:
        tf.config.set_visible_devices(gpus[ordinal], "GPU")
    # TensorFlow must not take all memory at once: SOK allocates its tables itself.
    tf.config.experimental.set_memory_growth(gpus[ordinal], True)
    return Device(ordinal, _identity(ordinal))


def check(cluster: ProcessGroup, device: Device) -> None:
    """Checks that each rank has its own GPU, or that no rank has one.

    Args:
        cluster: the ranks (`training.runtime.process_group`); all of them must call.
        device: this rank's `Device`.

    Raises:
        UserError: two ranks have the same GPU, or only some of the ranks have one.
    """
    import numpy as np
    import tensorflow as tf

    kind = "cpu" if device.ordinal is None else "gpu"
    visible = os.environ.get(VARIABLE, "unset")[:60]
    fields = (kind, device.identity, os.uname().nodename[:64], visible, str(cluster.local_size))
    record = "\0".join(fields).encode()[:_RECORD_BYTES].ljust(_RECORD_BYTES, b"\0")
    with tf.device("CPU:0"):
        gathered = cluster.alltoallv([np.frombuffer(record, np.uint8)] * cluster.size)
    ranks = [
        bytes(one).rstrip(b"\0").decode(errors="replace").split("\0")
        for one in gathered.reshape(cluster.size, _RECORD_BYTES)
    ]
    kinds = [fields[0] for fields in ranks]
    if len(set(kinds)) > 1:
        without, having = kinds.index("cpu"), kinds.index("gpu")
        raise UserError(
            f"expected GPUs for all ranks or for none: rank {having} on {ranks[having][2]} has "
            f"one, but rank {without} on {ranks[without][2]} has none that TensorFlow sees "
            f"({VARIABLE} {ranks[without][3]})",
            field=VARIABLE,
        )
    first = {}
    for rank, fields in enumerate(ranks):
        if fields[0] == "cpu":
            continue
        # A UUID identifies a GPU anywhere, a number only on its host.
        unique = fields[1] if fields[1].startswith(("GPU-", "MIG-")) else tuple(fields[1:3])
        other = first.setdefault(unique, rank)
        if other != rank:
            raise UserError(_shared(other, rank, *fields[1:]), field=VARIABLE)


def _shared(
    first: int, second: int, identity: str, host: str, visible: str, local_size: str
) -> str:
    if visible == "unset":
        given = f"{VARIABLE} is not set, and TensorFlow sees too few GPUs"
        advice = "start the ranks with ./hvd_wrapper.sh, and at most one per GPU"
    else:
        devices = count(len(visible.split(",")), "device")
        given = f"{VARIABLE}={visible} shows {devices} to {local_size} local ranks"
        advice = f"unset {VARIABLE} and start the ranks with ./hvd_wrapper.sh, or set it per rank"
    who = f"ranks {first} and {second} on {host} would share one GPU ({identity})"
    return f"{who}: {given}; {advice}"


def unused(device: Device) -> str | None:
    """Returns a line about GPUs of this host that TensorFlow does not use, or None.

    None too if the user hides them: `CUDA_VISIBLE_DEVICES` is empty or -1.
    """
    hidden = os.environ.get(VARIABLE, "unset").strip() in ("", "-1", "NoDevFiles")
    if device.ordinal is not None or hidden:
        return None
    evidence = on_host()
    if evidence is None:
        return None
    return (
        f"this host has a GPU ({evidence}), but TensorFlow does not use it: {_why_unseen()}. The "
        f"job runs on the CPU; set {VARIABLE}=-1 if that is intended"
    )


def _why_unseen() -> str:
    import tensorflow as tf

    if not tf.test.is_built_with_cuda():
        return f"it is built for the CPU only; {_how_to_install_cuda(tf.__version__)}"
    visible = os.environ.get(VARIABLE)
    named = "" if visible is None else f"{VARIABLE}={visible} names no device of this host, or "
    fails = "a CUDA library or the driver fails to load (TF_CPP_MIN_LOG_LEVEL=0 shows which)"
    return named + fails


def without_kernels(device: Device) -> str | None:
    """Returns a line if the op library has no kernels for this process's GPU, or None.

    None too if the library is not built; the parts of a job that need it report that.
    """
    from ops import loader

    try:
        if device.ordinal is None or loader.has_cuda():
            return None
    except loader.LibraryNotBuiltError:
        return None
    return (
        f"TensorFlow uses a GPU, but {loader.path()} has no CUDA kernels: remove it and run "
        f"`make ops`, which prints why it builds none; to train on the CPU set {VARIABLE}=-1"
    )


def _how_to_install_cuda(tensorflow: str) -> str:
    """Returns what gives this Python a TensorFlow with CUDA, and matching ops.

    Args:
        tensorflow: the installed version.
    """
    # bootstrap.sh records an environment's device, chosen when it was created.
    if not os.path.exists(os.path.join(sys.prefix, _DEVICE_FILE)):
        return f"install tensorflow[and-cuda]=={tensorflow} instead, then build the ops again"
    folder = sys.prefix
    if os.path.dirname(folder) == _ROOT:
        folder = os.path.basename(folder)
    # As in the Makefile.
    settings = [] if folder == ".venv" else [f"TENSORFLOW={tensorflow}"]
    if folder not in (".venv", f".venv-tf{tensorflow}"):
        settings.append(f"VENV={shlex.quote(folder)}")
    if "DEVICE" in os.environ or not listed():
        settings.append("DEVICE=gpu")
    command = " ".join([*settings, "make venv ops"])
    return f"for the GPU run `rm -r {shlex.quote(folder)} && {command}`"


def free_memory() -> int | None:
    """Returns the free bytes of this process's GPU; None if unknown."""
    import tensorflow as tf

    (gpu,) = tf.config.get_visible_devices("GPU")
    name = _identity(int(gpu.name.rpartition(":")[2]))
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", name]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
        return int(float(answer.stdout.split()[0]) * 2**20)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _identity(ordinal: int) -> str:
    """Returns "GPU-<UUID>" of a device of this process, as the CUDA driver reports it.

    Without the driver, returns the device's entry of CUDA_VISIBLE_DEVICES, or its number.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    fallback = names[ordinal] if ordinal < len(names) else str(ordinal)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        # The second version returns the UUID of a MIG instance, the first that of its GPU.
        read = getattr(driver, "cuDeviceGetUuid_v2", None) or driver.cuDeviceGetUuid
    except (OSError, AttributeError):
        return fallback
    device, raw = ctypes.c_int(), ctypes.create_string_buffer(16)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), ordinal) or read(raw, device):
        return fallback
    return f"GPU-{uuid.UUID(bytes=raw.raw)}"


def count(number: int, noun: str) -> str:
    """Returns e.g. "1 GPU" or "2 GPUs"."""
    return f"{number} {noun}{'s' * (number != 1)}"
