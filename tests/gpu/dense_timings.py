"""Timings of the kernels of a step's dense part, and of PyTorch's equivalents.

The MLPs are those of the default model, with random weights and inputs. Bytes are the minimum
traffic: each activation that a layer reads or writes once per product that needs it, weights once.
"""

import functools

from tests.gpu import torch_dense
from tests.gpu.clock import entry, torch_dtype, use_tf32
from tests.gpu.launchers import DTYPE_NAMES, ELEMENT_BYTES, FLOAT16, FLOAT32

BATCH = 65_536
#: {MLP: (widths, whether the gradient of the input is needed)}, without the top MLP's last layer.
MLPS = {
    "bottom MLP": ((13, 512, 256, 128), False),
    "top MLP": ((480, 1024, 1024, 512, 256), True),
}
#: Width of the input of the last layer, and elements of all vectors of a sample.
LAST, VECTORS = 256, 26 * 128
DTYPES = (FLOAT16, FLOAT32)


def _weights(widths):
    import torch

    kernels = [torch.randn(a, b, device=_place()) * (2 / a) ** 0.5
               for a, b in zip(widths, widths[1:])]  # fmt: skip
    return kernels, [torch.randn(b, device=_place()) * 0.1 for b in widths[1:]]


def _place():
    """Returns the device of all tensors: the emulation's tests replace it."""
    return "cuda"


def _torch_mlp(x, kernels, biases):
    """Returns PyTorch's layers: addmm and relu."""
    import torch

    for kernel, bias in zip(kernels, biases):
        x = torch.relu(torch.addmm(bias, x, kernel))
    return x


def _mlp_peer(kernels, biases, x, gradient, input_gradient, backward):
    """Returns PyTorch's calls, over copies of the weights in x's type, made before."""
    import torch

    weights = [[w.to(x.dtype).requires_grad_() for w in group] for group in (kernels, biases)]
    if not backward:
        with torch.no_grad():
            copies = [[w.detach() for w in group] for group in weights]
        return [lambda: _torch_mlp(x, *copies)]
    leaf = x.detach().requires_grad_(input_gradient)
    y = _torch_mlp(leaf, *weights)
    needed = [*weights[0], *weights[1], *[leaf] * input_gradient]
    return [lambda: torch.autograd.grad(y, needed, gradient, retain_graph=True)]


def _mlp(library, name, dtype, backward):
    import torch

    widths, input_gradient = MLPS[name]
    use_tf32(dtype == FLOAT32)
    kernels, biases = _weights(widths)
    mlp = torch_dense.Mlp(
        library, kernels, biases, BATCH, dtype, last_relu=True, input_gradient=input_gradient
    )
    x, gradient = (
        torch.randn(BATCH, width, device=_place()).to(torch_dtype(dtype))
        for width in (widths[0], widths[-1])
    )
    mlp.forward(x)
    call = functools.partial(mlp.backward, x, gradient) if backward else lambda: mlp.forward(x)
    layers = list(zip(widths, widths[1:]))
    flop = sum(2 * BATCH * a * b for a, b in layers)
    elements = sum(BATCH * (a + b) for a, b in layers)
    weights = 4 * sum((a + 1) * b for a, b in layers)
    if backward:
        skipped = 0 if input_gradient else 1
        flop = 2 * flop - skipped * 2 * BATCH * widths[0] * widths[1]
        elements += sum(BATCH * a for a, _ in layers[skipped:])
        weights *= 2
    peer = functools.partial(_mlp_peer, kernels, biases, x, gradient, input_gradient, backward)
    size = elements * ELEMENT_BYTES[dtype] + weights
    return entry(library, size, [call], peer, repeats=20, flop=flop)


def _loss_peer(hidden, kernel, bias, label, scale):
    import torch

    def step():
        x, w, b = (t.detach().requires_grad_() for t in (hidden, kernel, bias))
        logits = torch.addmm(b.to(x.dtype), x, w.to(x.dtype)).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
        return loss, *torch.autograd.grad(loss * scale, (x, w, b))

    return [step]


def _loss(library, dtype):
    import torch

    place = _place()
    hidden = torch.relu(torch.randn(BATCH, LAST, device=place)).to(torch_dtype(dtype))
    kernel, bias = torch.randn(LAST, 1, device=place) * 0.1, torch.zeros(1, device=place)
    label = (torch.rand(BATCH, 1, device=place) < 0.25).float()
    scale = torch.full((1,), 1024.0, device=place)
    loss = torch_dense.LogLoss(library, hidden, kernel, bias, label, scale, dtype)
    size = 2 * hidden.numel() * ELEMENT_BYTES[dtype] + 4 * BATCH
    peer = functools.partial(_loss_peer, hidden, kernel, bias, label, scale)
    return entry(library, size, [loss.run], peer)


def _update_peer(optimizer, variables, gradients):
    """Returns PyTorch's optimizers: one launch for all variables where it has that."""
    import torch

    leaves = [variable.clone().requires_grad_() for variable in variables]
    for leaf, gradient in zip(leaves, gradients):
        leaf.grad = gradient
    if optimizer == "sgd":
        found = torch.optim.SGD(leaves, lr=1e-3, fused=leaves[0].is_cuda)
    elif optimizer == "adagrad":
        found = torch.optim.Adagrad(leaves, lr=1e-3, foreach=True)
    else:
        found = torch.optim.Adam(leaves, lr=1e-3, fused=leaves[0].is_cuda)
    return [found.step]


def _update(library, optimizer):
    import torch

    variables = []
    for widths, _ in MLPS.values():
        variables += [w for group in zip(*_weights(widths)) for w in group]
    variables += [torch.randn(LAST, 1, device=_place()), torch.zeros(1, device=_place())]
    gradients = [torch.randn_like(variable) for variable in variables]
    rate, scale = (torch.full((1,), value, device=_place()) for value in (1e-3, 1.0))
    update = torch_dense.DenseUpdate(library, optimizer, variables, gradients, rate, scale)
    # Gradients are read; variables and states are read and written.
    size = 4 * sum(v.numel() for v in variables) + 8 * sum(
        t.numel() for t in (*variables, *update.states)
    )
    peer = functools.partial(_update_peer, optimizer, variables, gradients)
    return entry(library, size, [update.run], peer)


def _finite(library, dtype):
    import torch

    tensors = [torch.randn(BATCH, VECTORS, device=_place()).to(torch_dtype(dtype))]
    finite = torch_dense.AllFinite(library, tensors, dtype)
    size = tensors[0].numel() * ELEMENT_BYTES[dtype]

    def peer():
        return [lambda: torch.isfinite(tensors[0]).all()]

    return entry(library, size, [finite.run], peer)


def entries(library, seed):
    """Returns [(name, function that returns a result for JSON)].

    Results of MLPs have "flop", the floating-point operations of their products.
    """
    import torch

    torch.manual_seed(seed)
    listed = []
    for dtype in DTYPES:
        kind = "TF32" if dtype == FLOAT32 else DTYPE_NAMES[dtype]
        for name in MLPS:
            for backward in (False, True):
                what = f"{name} {'backward' if backward else 'forward'} {kind}"
                listed.append((what, functools.partial(_mlp, library, name, dtype, backward)))
    for dtype in DTYPES:
        label = DTYPE_NAMES[dtype]
        listed.append((f"last layer and loss {label}", functools.partial(_loss, library, dtype)))
        listed.append((f"vectors all finite {label}", functools.partial(_finite, library, dtype)))
    for optimizer in ("sgd", "adagrad", "adam"):
        listed.append((f"all weights {optimizer}", functools.partial(_update, library, optimizer)))
    return listed
