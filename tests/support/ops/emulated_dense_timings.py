"""Runs the timings of `tests.gpu.dense_timings` on the emulated kernels, and compares with PyTorch.

Runs in PyTorch's environment: python3 -m tests.support.ops.emulated_dense_timings SEED prints JSON.
"""

import ctypes
import json
import sys

import torch

from tests.gpu import build, clock, dense_timings, group, torch_dense
from tests.gpu.launchers import FLOAT16, FLOAT32


def relative(found, expected):
    """Returns the norm of the difference over the norm of the expected tensor."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def differences(library, dtype):
    """Returns {what: relative difference of the launchers' results from PyTorch's}."""
    found = {}
    for name, (widths, input_gradient) in dense_timings.MLPS.items():
        kernels, biases = dense_timings._weights(widths)
        kind = clock.torch_dtype(dtype)
        x, gradient = (torch.randn(dense_timings.BATCH, w).to(kind)
                       for w in (widths[0], widths[-1]))  # fmt: skip
        mlp = torch_dense.Mlp(
            library, kernels, biases, len(x), dtype, True, tf32=False, input_gradient=input_gradient
        )
        mlp.forward(x)
        mlp.backward(x, gradient)
        (y,) = (call() for call in dense_timings._mlp_peer(
            kernels, biases, x, gradient, input_gradient, backward=False))  # fmt: skip
        (expected,) = (call() for call in dense_timings._mlp_peer(
            kernels, biases, x, gradient, input_gradient, backward=True))  # fmt: skip
        ours = [*mlp.kernel_gradients, *mlp.bias_gradients]
        ours += [mlp.x_gradient] if input_gradient else []
        found[name] = max(map(relative, [mlp.y, *ours], [y, *expected]))
    hidden = torch.relu(torch.randn(dense_timings.BATCH, 64)).to(kind)
    kernel, bias, label = torch.randn(64, 1), torch.randn(1), torch.rand(len(hidden), 1)
    scale = torch.full((1,), 8.0)
    loss = torch_dense.LogLoss(library, hidden, kernel, bias, label, scale, dtype)
    loss.run()
    (expected,) = (call() for call in dense_timings._loss_peer(hidden, kernel, bias, label, scale))
    masked = [expected[0], expected[1] * (hidden > 0), *expected[2:]]
    ours = [loss.loss, loss.hidden_gradient, loss.kernel_gradient, loss.bias_gradient]
    found["log loss"] = max(map(relative, ours, masked))
    return found


def updates(library):
    """Returns {optimizer: relative difference of one update's change from PyTorch's}."""
    found = {}
    for optimizer in ("sgd", "adagrad", "adam"):
        variables = [torch.randn(20, 7), torch.randn(7)]
        gradients = [torch.randn_like(variable) for variable in variables]
        rate, scale = torch.full((1,), 1e-3), torch.ones(1)
        update = torch_dense.DenseUpdate(library, optimizer, variables, gradients, rate, scale)
        for state in update.states:
            state.zero_()
        before = [variable.clone() for variable in variables]
        (step,) = dense_timings._update_peer(optimizer, variables, gradients)
        leaves = step.__self__.param_groups[0]["params"]
        update.run()
        step()
        found[optimizer] = max(
            relative(v - b, leaf.detach() - b) for v, b, leaf in zip(variables, before, leaves)
        )
        assert int(update.weights_finite) == 1 and int(update.iteration) == 1
    return found


def finite(library):
    """Returns whether tensors without and with NaN are reported as finite."""
    tensors, answers = [torch.ones(5), torch.ones(3)], []
    check = torch_dense.AllFinite(library, tensors, FLOAT32)
    for value in (1.0, float("nan")):
        tensors[1][2] = value
        check.run()
        answers.append(int(check.finite))
    return answers


def timings(library, seed):
    """Returns {name: result} of every timing, without measuring."""

    def measure(calls, repeats=30, warmup=4):
        for call in calls:
            call()
        return {"seconds": 1e-3, "seconds_low": 1e-3, "seconds_high": 1e-3, "waited": False}

    clock.measure = measure
    return {name: group._attempt(run) for name, run in dense_timings.entries(library, seed)}


def main():
    ctypes.CDLL(str(build.build_cublaslt()))
    library, seed = build.open_library(build.build_emulation()), int(sys.argv[1])
    torch.manual_seed(seed)
    dense_timings._place = lambda: "cpu"
    dense_timings.BATCH, dense_timings.LAST, dense_timings.VECTORS = 24, 16, 40
    dense_timings.MLPS = {
        "bottom MLP": ((13, 32, 16), False), "top MLP": ((48, 40, 24, 16), True),
    }  # fmt: skip
    print(json.dumps({
        "float16": differences(library, FLOAT16), "float32": differences(library, FLOAT32),
        "updates": updates(library), "finite": finite(library), "timings": timings(library, seed),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
