"""Settings that must precede TensorFlow's import, and facts about this machine."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

from training.runtime import gpus, memory

# Packages that TensorFlow imports where it finds them, and goes on without: its Keras, for whoever
# uses that, and pandas, for Keras' inputs.
_UNUSED = ("keras", "tf_keras", "pandas")
# On processors that have one of these TensorFlow turns oneDNN on, whose allocator keeps memory too.
_ONEDNN_FLAGS = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"}


def prepare() -> None:
    """Silences TensorFlow's start-up messages and makes it keep memory; user settings stay.

    Without its own allocator, TensorFlow gives every large activation back to the operating system
    and takes fresh pages at each step, and their page faults cost more than the interaction
    (docs/ops.md).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if not _ONEDNN_FLAGS & _processor_flags():
        os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
        # All that the machine has (MB), or tables of more than 64 GB would not fit.
        megabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(megabytes))


@contextlib.contextmanager
def quick_imports(without: Sequence[str] = _UNUSED) -> Iterator[None]:
    """A context in which TensorFlow is imported in half to three quarters of the time.

    Python's garbage collector would go over what is being imported again and again, and then at
    any step of a training: none of it is garbage.

    Args:
        without: packages that are not found meanwhile. They can be imported afterwards.
    """
    collected = gc.isenabled()
    gc.disable()
    absent = [name for name in without if name not in sys.modules]
    for name in absent:
        # None makes an import fail; typeshed does not know of it.
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
        gc.freeze()
        if collected:
            gc.enable()


def _processor_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo") as info:
            return set(next((line for line in info if line.startswith("flags")), "").split())
    except OSError:
        return set()


def memory_per_rank(local_size: int) -> int | None:
    """Returns the bytes available to one rank's tables: 80 % of its device's free memory.

    None if the driver does not report it: then nothing is checked.
    """
    import tensorflow as tf

    if not tf.config.get_visible_devices("GPU"):
        return int(memory.available() * 0.8 / local_size)
    free = gpus.free_memory()
    return None if free is None else int(free * 0.8)


def peak_memory() -> dict[str, int | None]:
    """Returns {peak_resident_bytes, peak_gpu_bytes} of this process; the latter None without."""
    import tensorflow as tf

    gpu = None
    if tf.config.list_physical_devices("GPU"):
        gpu = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    # Not getrusage: its peak begins with that of the process which started this one.
    with open("/proc/self/status") as status:
        resident = int(re.findall(r"VmHWM:\s+(\d+) kB", status.read())[0]) * 1024
    return {"peak_resident_bytes": resident, "peak_gpu_bytes": gpu}


def code_version() -> str | None:
    """Returns the Git commit, with "+" if files were changed; None outside of Git."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        described = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def hardware() -> dict[str, str | int | None]:
    """Returns this rank's hardware as {processor, cores, gpu}; gpu is None without one."""
    import tensorflow as tf

    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            names = (
                line.partition(":")[2].strip() for line in info if line.startswith("model name")
            )
            processor = next(names, processor)
    except OSError:
        pass
    used = tf.config.get_visible_devices("GPU")
    details = tf.config.experimental.get_device_details(used[0]) if used else {}
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": details.get("device_name", "unknown") if used else None,
    }


def versions() -> dict[str, str | int | None]:
    """Returns the versions, and the hardware, that a result depends on."""
    import numpy
    import tensorflow as tf

    known = {
        **hardware(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": numpy.__version__,
        "code": code_version(),
    }
    try:
        import horovod

        known["horovod"] = horovod.__version__
    except ImportError:
        known["horovod"] = None
    return known
