"""The cross network of DLRM-DCNv2: the native op compared with plain products and TensorFlow.

    python3 -m benchmarks.cross [--rounds 7] [--batches 2048,8192] [--dtypes float32,bfloat16]

A row gives the op's rate in TFLOP/s, counting only matrix products, its share of the rate of the
same work in plain matrix products, and the speedup over TensorFlow's formulation, both by the clock
and by processor time, which other programs disturb less. Plain products are oneDNN's own, [B, n] x
[n, r] and [B, r] x [r, n] on all cores with a kernel in oneDNN's preferred layout, without bias and
elementwise work. All are timed in turn; ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from benchmarks import machine
from benchmarks.timing import timed
from benchmarks.training import onednn
from model.interactions import CrossInteraction, InteractionOptions
from ops import loader
from ops.cross import cross_network, cross_network_tensorflow
from storage.arguments import whole_number, whole_numbers

TABLES, DIMENSION = 26, 128
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


def cross_rows(
    batch: int, dtype: tf.DType, rounds: int, options: InteractionOptions, chunk_rows: int = 0
) -> Iterator[str]:
    """Yields a line for the forward pass (inference, training) and for forward and backward.

    Args:
        batch: B.
        dtype: float32 or bfloat16.
        rounds: timed repetitions.
        options: layers and rank of the network, low rank.
        chunk_rows: of the native op; 0: its default.
    """
    network = CrossInteraction(TABLES, DIMENSION, options)
    width, rank, layers = network.width, options.cross_rank, options.cross_layers
    x0 = tf.cast(tf.random.normal([batch, width]), dtype)
    upstream = tf.cast(tf.random.normal([batch, width]) / batch, dtype)
    weights = [tf.random.normal(p.shape, 0.0, p.deviation) for p in network.parameters]
    kernels, biases = [w for w in weights if len(w.shape) == 2], weights[2::3]

    def native(x, kernels, biases, inference=False):
        return cross_network(x, kernels, biases, inference, chunk_rows)

    def tensorflow(x, kernels, biases, inference=False):
        cast = [[tf.cast(w, dtype) for w in each] for each in (kernels, biases)]
        return cross_network_tensorflow(x, *cast)

    def forward(compute, inference):
        run = tf.function(lambda x, k, b: compute(x, k, b, inference), autograph=False)
        return lambda: run(x0, kernels, biases)

    def training_forward(compute):
        # A tape keeps what the gradient needs; without one TensorFlow frees it.
        def run():
            with tf.GradientTape() as tape:
                tape.watch([x0, *kernels, *biases])
                return tape, compute(x0, kernels, biases)

        return run

    def both(compute):
        @tf.function(autograph=False)
        def run(x, kernels, biases, upstream):
            with tf.GradientTape() as tape:
                tape.watch([x, *kernels, *biases])
                y = compute(x, kernels, biases)
            return y, tape.gradient(y, [x, *kernels, *biases], upstream)

        return lambda: run(x0, kernels, biases, upstream)

    library = onednn.load()
    assert library is not None
    products = onednn.Products(library, _PRECISIONS[dtype.name])
    pair = [products(batch, width, rank), products(batch, rank, width)]

    def plain():
        for multiply in pair:
            multiply()

    flops = 2 * 2 * batch * width * rank  # of a layer forward, and of the pair
    for case, make, passes in (
        ("inference", lambda compute: forward(compute, True), 1),
        ("forward for training", training_forward, 1),
        ("forward and backward", both, 3),
    ):
        calls = [make(native), make(tensorflow), plain]
        for call in calls:
            call()
        # [rounds, calls, by the clock or by processor time]
        seconds = np.array([[timed(call) for call in calls] for _ in range(rounds)])
        work = passes * layers
        ratios = np.median(seconds / seconds[:, :1], axis=0)
        ours, theirs, pair_seconds = np.median(seconds, axis=0)
        rates = [work * flops / ours / 1e12, flops / pair_seconds / 1e12]
        share, speedup = work * ratios[2], ratios[1]
        yield (
            f"B {batch:6,} {dtype.name:9s} {case:21s} {ours[0] * 1e3:8.1f} ms, "
            f"{rates[0][0]:.3f} {rates[0][1]:.3f} TFLOP/s, {share[0]:4.0%} {share[1]:4.0%} of "
            f"plain products ({rates[1][0]:.3f} {rates[1][1]:.3f}), {speedup[0]:.2f} "
            f"{speedup[1]:.2f} x TensorFlow ({theirs[0] * 1e3:.1f} ms)"
        )


def main(arguments: list[str] | None = None) -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=whole_number(1), default=7)
    parser.add_argument("--batches", type=whole_numbers(1), default=[2048, 8192])
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--layers", type=whole_number(1), default=3)
    parser.add_argument("--rank", type=whole_number(1), default=512)
    parser.add_argument("--chunk_rows", type=whole_number(), default=0)
    flags = parser.parse_args(arguments)
    # OpenMP's threads must not spin while the other calls are timed.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    loader.load("mlp")
    options = InteractionOptions(flags.layers, flags.rank)
    print(f"{machine.threads()} threads, n {(TABLES + 1) * DIMENSION}, {options}")
    print("pairs of rates, shares and speedups: by the clock, by processor time")
    for batch in flags.batches:
        for name in flags.dtypes.split(","):
            for row in cross_rows(
                batch, tf.as_dtype(name), flags.rounds, options, flags.chunk_rows
            ):
                print(row, flush=True)


if __name__ == "__main__":
    main()
