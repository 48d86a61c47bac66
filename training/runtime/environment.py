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

# Packages that TensorFlow imports if they are installed but does not need: Keras, and pandas for
# Keras' inputs.
_UNUSED = ("keras", "tf_keras", "pandas")
_NOTICE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called"
    rb"|I\d{4} .*\bport\.cc:\d+\] oneDNN custom operations are on"
)
# With one of these TensorFlow enables oneDNN, whose allocator keeps memory by itself.
_ONEDNN_FLAGS = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"}


def prepare() -> None:
    """Silences TensorFlow's start-up messages and makes it keep memory; keeps the user's settings.

    By default TensorFlow returns every large activation to the operating system and takes fresh
    pages in each step; their page faults cost more time than the interaction (docs/ops.md).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if not _ONEDNN_FLAGS.intersection(_cpuinfo("flags").split()):
        os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
        # In MB. The default limit of 64 GB would be too low for large tables.
        megabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(megabytes))


@contextlib.contextmanager
def quick_imports(without: Sequence[str] = _UNUSED) -> Iterator[None]:
    """A context in which importing TensorFlow takes half to three quarters of the usual time.

    Suspends the garbage collector, which would scan the new modules again and again, and exempts
    them from later collections.

    Args:
        without: packages that cannot be imported within the context, but afterwards.
    """
    collected = gc.isenabled()
    gc.disable()
    absent = [name for name in without if name not in sys.modules]
    for name in absent:
        # None makes an import fail; typeshed does not allow it.
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
        gc.freeze()
        if collected:
            gc.enable()


@contextlib.contextmanager
def suppress_notices() -> Iterator[None]:
    """A context that suppresses the notices which TensorFlow always prints when imported.

    From 2.17 on, TensorFlow reports at each start that oneDNN is on, for any TF_CPP_MIN_LOG_LEVEL.
    Other lines on standard error are printed when the context ends, also after an exception. With
    TF_CPP_MIN_LOG_LEVEL=0 all lines are printed at once.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    sys.stderr.flush()
    # TensorFlow writes to the file descriptor, not to sys.stderr.
    stderr = os.dup(2)
    try:
        with open(os.memfd_create("stderr"), "w+b") as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(stderr, 2)
                held.seek(0)
                sys.stderr.buffer.write(b"".join(x for x in held if not _NOTICE.match(x)))
                sys.stderr.flush()
    finally:
        os.close(stderr)


def _cpuinfo(field: str) -> str:
    """Returns a field of the first processor in /proc/cpuinfo, or ""."""
    try:
        with open("/proc/cpuinfo") as info:
            line = next((line for line in info if line.startswith(field)), "")
    except OSError:
        return ""
    return line.partition(":")[2].strip()


def memory_per_rank(local_size: int) -> int | None:
    """Returns the bytes available to one rank's tables: 80 % of its device's free memory.

    Returns None if the GPU's driver does not report its free memory.
    """
    import tensorflow as tf

    if not tf.config.get_visible_devices("GPU"):
        return int(memory.available() * 0.8 / local_size)
    free = gpus.free_memory()
    return None if free is None else int(free * 0.8)


def host_bytes(local_size: int, table_bytes: int) -> int:
    """Returns the host memory of one rank beside its tables: 80 % of its share of what is free.

    Args:
        local_size: ranks on this machine.
        table_bytes: bytes of the rank's tables, which are in host memory without a GPU.
    """
    import tensorflow as tf

    on_host = 0 if tf.config.get_visible_devices("GPU") else table_bytes
    return max(0, int(memory.available() * 0.8 / local_size) - on_host)


def peak_memory() -> dict[str, int | None]:
    """Returns {peak_resident_bytes, peak_gpu_bytes} of this process; the latter may be None."""
    import tensorflow as tf

    gpu = None
    if tf.config.list_physical_devices("GPU"):
        gpu = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    # Not getrusage: it includes the peak of the parent process before exec.
    with open("/proc/self/status") as status:
        resident = int(re.findall(r"VmHWM:\s+(\d+) kB", status.read())[0]) * 1024
    return {"peak_resident_bytes": resident, "peak_gpu_bytes": gpu}


def code_version() -> str | None:
    """Returns the Git commit, with "+" if files have changed; None outside a Git repository."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        described = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def versions() -> dict[str, str | int | None]:
    """Returns the software versions and the hardware of this rank; "gpu" is None without a GPU."""
    import numpy
    import tensorflow as tf

    used = tf.config.get_visible_devices("GPU")
    details = tf.config.experimental.get_device_details(used[0]) if used else {}
    known = {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": details.get("device_name", "unknown") if used else None,
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
