"""The least time that a training step can take on a machine: its arithmetic, then its rows.

Counts are per sample. Only what the model needs is counted: no padding, no second pass over an
activation, no unused gradient. The times of the two parts are added up, as if no core
could compute while rows are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.training.task import DENSE_FEATURES, Task


def layers(task: Task) -> list[tuple[int, int]]:
    """Returns [(inputs, outputs), ...] of both MLPs, bottom first; no padding."""
    features = len(task.vocab_sizes) + 1
    interacted = task.dimension + features * (features - 1) // 2
    bottom, top = (DENSE_FEATURES, *task.bottom_mlp), (interacted, *task.top_mlp)
    return [*zip(bottom[:-1], bottom[1:]), *zip(top[:-1], top[1:])]


def forward_flops(task: Task) -> int:
    """Returns operations of one sample's forward pass: both MLPs and the pairs' products."""
    features = len(task.vocab_sizes) + 1
    pairs = features * (features - 1) // 2
    return 2 * sum(i * o for i, o in layers(task)) + 2 * pairs * task.dimension


def train_flops(task: Task) -> int:
    """Returns operations of one sample's forward and backward pass.

    Three products of equal size a layer (output, weight gradient, input gradient) and for each
    pair of features (scalar product, and a multiple of either added to the other's gradient),
    except the first layer's input gradient, which is unused.
    """
    inputs, outputs = layers(task)[0]
    return 3 * forward_flops(task) - 2 * inputs * outputs


def seconds_per_sample(task: Task, limits: Mapping[str, float], *, training: bool = True) -> float:
    """Returns the least seconds of one sample.

    Args:
        task: the `Task`.
        limits: {"flops_per_second", "row_reads_per_second", "row_updates_per_second"}, measured;
            the rows of that measurement are as wide as the task's.
        training: forward, backward and update; else forward alone.
    """
    tables = len(task.vocab_sizes)
    reads = tables / limits["row_reads_per_second"]
    if not training:
        return forward_flops(task) / limits["flops_per_second"] + reads
    updates = tables / limits["row_updates_per_second"]
    return train_flops(task) / limits["flops_per_second"] + reads + updates
