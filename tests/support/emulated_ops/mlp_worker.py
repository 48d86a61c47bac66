"""Runs the MLP's GPU kernels on the emulated GPU and writes their results.

    python3 -m tests.support.emulated_ops.mlp_worker FILE SEED CASES

SEED is of the order of the emulation's threads. CASES is JSON: {name: arguments of `run`}. FILE
(.npz) receives `name/...` of each result.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tensorflow as tf

from ops.mlp import mlp, mlp_backward, mlp_forward
from tests.support.emulated_ops.worker import load_emulated_gpu


def float64(tensor):
    return tf.cast(tensor, tf.float64).numpy()


def address(tensor):
    return np.asarray(memoryview(tensor)).__array_interface__["data"][0]


def run(seed, batch, widths, dtype, last_relu, tf32):
    """Runs an MLP of random weights forward and backward.

    Returns:
        {name: float64 array}: `upstream` (the gradient of y), `activations/l` (of layer l, 0: x),
        `kernels/l` as rounded to dtype, `biases/l`, `x_gradient`, `gradients/k` in the order
        kernel 0, bias 0, ...; `addresses` (uint64) of these.
    """
    rng, dtype = np.random.default_rng(seed), tf.as_dtype(dtype)
    x, upstream = (tf.cast(rng.standard_normal((batch, n)), dtype) for n in (widths[0], widths[-1]))
    kernels = [
        tf.Variable(rng.standard_normal((k, n)) * np.sqrt(2 / k), dtype=tf.float32)
        for k, n in zip(widths, widths[1:])
    ]
    biases = [tf.Variable(0.3 * rng.standard_normal(n), dtype=tf.float32) for n in widths[1:]]
    options = {"last_relu": last_relu, "tf32": tf32}

    found = mlp_forward(x, kernels, biases, **options)
    gradients = mlp_backward(upstream, found, kernels, **options)
    weights = [g for pair in zip(gradients.kernels, gradients.biases) for g in pair]
    check_other_calls(x, kernels, biases, upstream, found, gradients, options)
    return {
        "upstream": float64(upstream),
        **{f"activations/{k}": float64(a) for k, a in enumerate([x, *found.hidden, found.y])},
        **{f"kernels/{k}": float64(tf.cast(kernel, dtype)) for k, kernel in enumerate(kernels)},
        **{f"biases/{k}": float64(bias) for k, bias in enumerate(biases)},
        "x_gradient": float64(gradients.x),
        **{f"gradients/{k}": float64(g) for k, g in enumerate(weights)},
        "addresses": np.asarray([address(g) for g in weights], np.uint64),
    }


def check_other_calls(x, kernels, biases, upstream, found, gradients, options):
    """Checks that calls with a tape, of parts and for inference return the same bits."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = mlp(x, kernels, biases, **options)
    other = tape.gradient(y, [x, *kernels, *biases], upstream)
    without = mlp_backward(upstream, found, kernels, input_gradient=False, **options)
    assert without.x is None
    inferred = mlp(x, kernels, biases, for_inference=True, **options)
    theirs = [y, inferred, *other, *without.kernels, *without.biases]
    weights = [*gradients.kernels, *gradients.biases]
    for one, two in zip([found.y, found.y, gradients.x, *weights, *weights], theirs):
        assert one.numpy().tobytes() == two.numpy().tobytes()


def errors():
    """Returns {name: message}: of calls with wrong arguments."""
    x, kernels = tf.zeros([4, 3], tf.float16), [tf.zeros([3, 5]), tf.zeros([5, 2])]
    biases, y = [tf.zeros([5]), tf.zeros([2])], tf.zeros([4, 2], tf.float16)
    found = mlp_forward(x, kernels, biases)
    calls = {
        "saved": lambda: mlp_backward(y, found._replace(saved=found.saved[1:]), kernels),
        "gradient": lambda: mlp_backward(y[:3], found, kernels),
        "bias": lambda: mlp(x, kernels, [biases[0], tf.zeros([3])]),
        "kernel": lambda: mlp(x, [kernels[0], tf.zeros([4, 2])], biases),
    }
    messages = {}
    for name, call in calls.items():
        try:
            call()
        except tf.errors.InvalidArgumentError as error:
            messages[name] = error.message
    return messages


def main(file, seed, cases):
    launches = load_emulated_gpu(int(seed))
    results = {
        f"{name}/{key}": value
        for name, options in json.loads(cases).items()
        for key, value in run(**options).items()
    }
    assert launches() > 0
    np.savez(file, errors=json.dumps(errors()), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
