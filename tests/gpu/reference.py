"""NumPy reference of the kernels: float64 for products, sequential loops for updates."""

import numpy as np

from tests.gpu.launchers import BFLOAT16, FLOAT16, FLOAT32

# Half the distance of neighbouring numbers, relative.
ROUNDING = {FLOAT32: 2.0**-24, FLOAT16: 2.0**-11, BFLOAT16: 2.0**-8}
STORAGE = {FLOAT32: np.float32, FLOAT16: np.float16, BFLOAT16: np.uint16}


def to_storage(values, dtype):
    """Rounds to nearest even; bfloat16 is stored as uint16 bits."""
    single = np.asarray(values, np.float32)
    if dtype != BFLOAT16:
        return single.astype(STORAGE[dtype])
    bits = single.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_storage(stored, dtype):
    """Returns stored elements as float64."""
    if dtype != BFLOAT16:
        return stored.astype(np.float64)
    return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def interaction(features):
    """Returns (output, sum of the terms' magnitudes), both [B, W], for features [B, F, D]."""
    batch, count, dim = features.shape
    pairs = count * (count - 1) // 2
    width = (dim + pairs + 7) // 8 * 8
    output, magnitude = np.zeros((batch, width)), np.zeros((batch, width))
    output[:, :dim] = features[:, 0]
    lower = np.tril_indices(count, -1)
    output[:, dim : dim + pairs] = (features @ features.transpose(0, 2, 1))[:, lower[0], lower[1]]
    absolute = np.abs(features)
    magnitude[:, dim : dim + pairs] = (absolute @ absolute.transpose(0, 2, 1))[
        :, lower[0], lower[1]
    ]
    return output, magnitude


def interaction_gradient(features, upstream):
    """Returns (dL/dfeatures [B, F, D], sum of the terms' magnitudes) from dL/doutput [B, W]."""
    batch, count, dim = features.shape
    pairs = count * (count - 1) // 2
    lower = np.tril_indices(count, -1)
    square = np.zeros((batch, count, count))
    square[:, lower[0], lower[1]] = upstream[:, dim : dim + pairs]
    square += square.transpose(0, 2, 1)
    gradient = square @ features
    gradient[:, 0] += upstream[:, :dim]
    magnitude = np.abs(square) @ np.abs(features)
    magnitude[:, 0] += np.abs(upstream[:, :dim])
    return gradient, magnitude


def sequential_sgd(rows, numbers, gradients, step):
    """Computes rows[n] -= step * g for each (n, g) in order, in float32; skips numbers < 0.

    Round k applies the k-th occurrence of every row, as one array operation.
    """
    rows = rows.copy()
    order = np.argsort(numbers, kind="stable")
    order = order[numbers[order] >= 0]
    ordered = numbers[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if ordered.size else []
    lengths = np.diff(np.r_[starts, ordered.size]) if ordered.size else np.zeros(0, int)
    starts = np.asarray(starts, int)
    for k in range(int(lengths.max()) if lengths.size else 0):
        at = starts[lengths > k] + k
        change = np.float32(step) * gradients[order[at]].astype(np.float32)
        rows[ordered[at]] = rows[ordered[at]] - change
    return rows


def stateful(name, rows, states, numbers, gradients, rate, scale, options):
    """Applies a rule with states to the sum of each row's gradients, every operation in float32.

    Returns [rows, *states] after the update.
    """
    rows, accumulator, *linear = (array.copy() for array in (rows, *states))
    # Sequential SGD with step -1 on zeros is a running sum.
    sums = sequential_sgd(np.zeros_like(rows), numbers, gradients, -1.0) * np.float32(scale)
    touched = np.unique(numbers[numbers >= 0])
    rate, options = np.float32(rate), [np.float32(value) for value in options]
    g, w = sums[touched], rows[touched]
    if name == "adam":
        (v,), (beta1, beta2, epsilon), one = linear, options, np.float32(1)
        m = accumulator
        m[touched] += (g - m[touched]) * (one - beta1)
        v[touched] += (g * g - v[touched]) * (one - beta2)
        rows[touched] = w - rate * m[touched] / (np.sqrt(v[touched]) + epsilon)
        return [rows, m, v]
    before = np.sqrt(accumulator[touched])
    row_wise = name == "rowwise_adagrad"
    accumulator[touched] += (g.astype("f8") ** 2).mean(1).astype("f4") if row_wise else g * g
    root = np.sqrt(accumulator[touched])
    if row_wise:
        rows[touched] = w - rate / (root[:, None] + options[0]) * g
    elif name == "adagrad":
        rows[touched] = w - rate * g / (root + options[0])
    else:
        l1, l2, beta = options
        z = linear[0][touched] + (rate * g - (root - before) * w)
        linear[0][touched] = z
        rest = np.maximum(-z - l1, np.float32(0)) - np.maximum(z - l1, np.float32(0))
        solved = rest / (root + (beta + np.float32(2) * l2))
        rows[touched] = np.where(accumulator[touched] == 0, w, solved)
    return [rows, accumulator, *linear]


def philox(counter, key):
    """Philox4x32-10 (Salmon et al., SC 2011): counter uint32 [..., 4], key two words."""
    words = [counter[..., k].astype(np.uint64) for k in range(4)]
    low, high = int(key[0]), int(key[1])
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            (b >> np.uint64(32)) ^ words[1] ^ np.uint64(low), b & mask,
            (a >> np.uint64(32)) ^ words[3] ^ np.uint64(high), a & mask,
        ]  # fmt: skip
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(words, -1).astype(np.uint32)


def initial_rows(row_numbers, dim, table, seed, limit):
    """Returns the initial values of rows of a table: float32 [len(row_numbers), D]."""
    blocks = (dim + 3) // 4
    counter = np.empty((len(row_numbers), blocks, 4), np.uint32)
    numbers = np.asarray(row_numbers, np.uint64)
    counter[..., 0] = (numbers & np.uint64(0xFFFFFFFF)).astype(np.uint32)[:, None]
    counter[..., 1] = (numbers >> np.uint64(32)).astype(np.uint32)[:, None]
    counter[..., 2] = np.arange(blocks, dtype=np.uint32)
    counter[..., 3] = table
    words = philox(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    unit = (words >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return (np.float32(limit) * unit).reshape(len(row_numbers), blocks * 4)[:, :dim]
