"""Measures the machine's limits, interleaved with the programs.

    python3 -m benchmarks.training.rates SOCKET TASK

Allocates a table as large as all of the model's tables for random row reads and updates.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.training import gemm, onednn, worker_protocol
from benchmarks.training.task import Task

_REPETITIONS = 3


def main() -> None:
    """Serves the benchmark."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    import tensorflow as tf

    from benchmarks import machine

    address, task = sys.argv[1], Task.read(sys.argv[2])
    row = machine.ROW_BYTES
    table = machine.allocate(max(task.table_bytes // row, 1) * row)
    rows, copy = machine.RowProbe(table.ctypes.data, table.size, 500_000), machine.CopyProbe()
    library = onednn.load()

    def tensorflow(dtype: tf.DType) -> float:
        def make(m: int, k: int, n: int) -> Callable[[], Any]:
            a, b = (tf.cast(tf.random.normal(s), dtype) for s in ((m, k), (k, n)))
            return lambda: tf.linalg.matmul(a, b).numpy()

        return gemm.flops_per_second(make)

    def products(precision: str) -> dict[str, float]:
        rates = {"TensorFlow": tensorflow({"fp32": tf.float32, "bf16": tf.bfloat16}[precision])}
        if library is not None:
            with contextlib.suppress(onednn.NoProductError):
                rates[f"oneDNN {onednn.version(library)}"] = gemm.flops_per_second(
                    onednn.Products(library, precision)
                )
        return rates

    def measure(precisions: Sequence[str]) -> dict[str, Any]:
        median = statistics.median
        return {
            "copy_bytes_per_second": median(copy() for _ in range(_REPETITIONS)),
            "row_reads_per_second": median(rows(write=False) for _ in range(_REPETITIONS)),
            "row_updates_per_second": median(rows(write=True) for _ in range(_REPETITIONS)),
            "products": {precision: products(precision) for precision in precisions},
        }

    facts = {"processor": machine.processor(), "cores": machine.threads()}
    worker_protocol.serve(address, {"measure": measure}, rank=0, **facts)


if __name__ == "__main__":
    main()
