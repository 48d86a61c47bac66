"""Measures this machine's limits, for comparison with the project's kernels.

    python3 -m benchmarks.machine [--json FILE]

All rates use all cores: copy bandwidth with streaming stores, random rows read and rewritten in a
large table (prefetched, in huge and in small pages), and TensorFlow's matrix product.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import functools
import mmap
import os
import statistics
import time

import numpy as np
import tensorflow as tf

from benchmarks import results_file
from ops import loader
from storage.arguments import first_paragraph, whole_number

ROW_BYTES = 512  # an embedding row of 128 float32


@dataclasses.dataclass(frozen=True)
class MachineLimits:
    """Medians of one machine's rates with all cores."""

    processor: str
    threads: int
    load: float  # load average before the measurement
    copy_bytes_per_second: float  # bytes read plus bytes written
    row_reads_per_second: float
    row_updates_per_second: float
    row_reads_per_second_small_pages: float
    row_updates_per_second_small_pages: float
    matmul_float32_flops_per_second: float
    matmul_bfloat16_flops_per_second: float


def threads() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """Returns the processor's name."""
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


def allocate(size: int, huge_pages: bool = True) -> np.ndarray:
    """Returns `size` bytes as uint8 in a separate mapping: page-aligned, every page written."""
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice = "MADV_HUGEPAGE" if huge_pages else "MADV_NOHUGEPAGE"
    if hasattr(mmap, advice):
        mapping.madvise(getattr(mmap, advice))
    memory = np.frombuffer(mapping, np.uint8)
    memory.fill(1)
    return memory


@functools.cache
def _native() -> ctypes.CDLL:
    loader.load()
    native = ctypes.CDLL(str(loader.path()))
    pointer, word, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    native.dlrm_copy_seconds.argtypes = [pointer, pointer, word, number]
    native.dlrm_row_seconds.argtypes = [pointer, word, word, word, number, number, word]
    native.dlrm_copy_seconds.restype = native.dlrm_row_seconds.restype = ctypes.c_double
    return native


class CopyProbe:
    """Measures copy bandwidth at every call. Owns its buffers."""

    def __init__(self, size: int = 256 << 20):
        self._size = size // (64 * threads()) * 64 * threads()
        self.copied_bytes = 2 * self._size  # read and written, by one call
        self._source, self._target = allocate(self._size), allocate(self._size)

    def __call__(self) -> float:
        """Returns bytes read plus bytes written per second."""
        seconds = _native().dlrm_copy_seconds(
            self._target.ctypes.data, self._source.ctypes.data, self._size, threads()
        )
        return self.copied_bytes / seconds


class RowProbe:
    """Measures random rows per second of a table at every call."""

    def __init__(self, address: int, size: int, count: int = 1_000_000):
        self._address, self._rows = address, size // ROW_BYTES
        self.count = count  # rows visited by one call
        self._seed = 0

    def __call__(self, write: bool) -> float:
        """Returns rows read, or read and rewritten, per second."""
        self._seed += 1
        seconds = _native().dlrm_row_seconds(
            self._address, self._rows, ROW_BYTES, self.count, threads(), int(write), self._seed
        )
        return self.count / seconds


def matmul_rate(dtype: tf.DType, size: int = 1536, repetitions: int = 5) -> float:
    """Returns the median floating-point operations per second of TensorFlow's matrix product."""
    a, b = (tf.cast(tf.random.normal([size, size]), dtype) for _ in range(2))
    tf.linalg.matmul(a, b)
    rates = []
    for _ in range(repetitions):
        start = time.perf_counter()
        tf.linalg.matmul(a, b).numpy()
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return statistics.median(rates)


def measure(table_bytes: int = 3_600_000_000, repetitions: int = 7) -> MachineLimits:
    """Measures all rates. Takes about half a minute and ``table_bytes`` of memory."""
    load = os.getloadavg()[0]
    copy = CopyProbe()
    copies = [copy() for _ in range(repetitions)]
    del copy
    rows = {}
    for huge_pages in (True, False):
        memory = allocate(table_bytes // ROW_BYTES * ROW_BYTES, huge_pages)
        probe = RowProbe(memory.ctypes.data, memory.size)
        for write in (False, True):
            rows[huge_pages, write] = statistics.median(probe(write) for _ in range(repetitions))
        del memory
    return MachineLimits(
        processor=processor(),
        threads=threads(),
        load=load,
        copy_bytes_per_second=statistics.median(copies),
        row_reads_per_second=rows[True, False],
        row_updates_per_second=rows[True, True],
        row_reads_per_second_small_pages=rows[False, False],
        row_updates_per_second_small_pages=rows[False, True],
        matmul_float32_flops_per_second=matmul_rate(tf.float32),
        matmul_bfloat16_flops_per_second=matmul_rate(tf.bfloat16),
    )


def main() -> None:
    """Prints the limits and writes them as JSON with --json."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("--json", type=results_file.target, help="file to write the limits to")
    parser.add_argument("--table_bytes", type=whole_number(1 << 20, 1 << 40), default=3_600_000_000)
    arguments = parser.parse_args()
    limits = measure(arguments.table_bytes)
    print(f"{limits.processor}, {limits.threads} cores, load before {limits.load:.1f}")
    for name, value in dataclasses.asdict(limits).items():
        if isinstance(value, float) and name != "load":
            print(f"{name:40s} {value:12.3e}")
    if arguments.json:
        results_file.write(arguments.json, "machine", dataclasses.asdict(limits))


if __name__ == "__main__":
    main()
