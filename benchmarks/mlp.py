"""The published DLRM's MLPs: the fused op compared with TensorFlow's layers and XLA."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from benchmarks.timing import Limit, Row, compare
from model.mlp import MLP
from ops import loader

BATCHES = (2048, 8192)
# (inputs, widths, whether the last layer has ReLU) of the bottom and the top MLP.
LAYERS = ((13, (512, 256, 128), True), (480, (1024, 1024, 512, 256, 1), False))


def products() -> int:
    """Returns the multiply-adds of one sample's forward pass; backward takes twice as many."""
    widths = [(inputs, *sizes) for inputs, sizes, _ in LAYERS]
    return sum(a * b for each in widths for a, b in zip(each, each[1:]))


def mlp_rows(rounds: int) -> Iterator[Row]:
    """Yields rows of both MLPs together: forward, and forward and backward."""
    if not loader.is_built("mlp"):
        print("mlp         not measured: the fused op is not built, it needs oneDNN")
        return
    for batch in BATCHES:
        for dtype in (tf.float32, tf.bfloat16):
            yield from _rows(batch, dtype, rounds)


def _rows(batch: int, dtype: tf.DType, rounds: int) -> Iterator[Row]:
    square = tf.cast(tf.random.normal([1024, 1024]), dtype)
    inputs = [tf.cast(tf.random.normal([batch, width]), dtype) for width, _, _ in LAYERS]
    upstream = [
        tf.cast(tf.random.normal([batch, sizes[-1]]) / batch, dtype) for _, sizes, _ in LAYERS
    ]

    def make(fused):
        return [
            MLP(sizes, width, seed=1, stream=1, last_relu=last, fused=fused)
            for width, sizes, last in LAYERS
        ]

    def forward(fused, compiled=False):
        mlps = make(fused)

        @tf.function(jit_compile=compiled)
        def run(inputs):
            return [mlp(x, for_inference=True) for mlp, x in zip(mlps, inputs)]

        return lambda: run(inputs)

    def forward_and_backward(fused, compiled=False):
        mlps = make(fused)
        variables = [variable for mlp in mlps for variable in mlp.trainable_variables]

        @tf.function(jit_compile=compiled)
        def run(inputs, upstream):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = [mlp(x) for mlp, x in zip(mlps, inputs)]
            return tape.gradient(outputs, [*inputs, *variables], upstream)

        return lambda: run(inputs, upstream)

    for case, kind, passes in (
        ("forward", forward, 1),
        ("forward + backward", forward_and_backward, 3),
    ):
        arithmetic = Limit(
            "arithmetic",
            lambda: tf.linalg.matmul(square, square).numpy(),
            passes * batch * products() / 1024**3,
        )
        for compiled in (False, True):
            yield compare(
                "mlp",
                f"{case}, B {batch}, {dtype.name}" + (", vs XLA" if compiled else ""),
                [arithmetic],
                kind(True),
                kind(False, compiled),
                rounds,
            )
