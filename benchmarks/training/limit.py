"""The least time of a training step on a machine: its arithmetic plus its rows.

Counts are per sample and include only necessary work: no padding, no second pass over an
activation, no unused gradient. The two times are added: arithmetic and row accesses do not overlap.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.training.task import DENSE_FEATURES, Task


def layers(task: Task) -> list[tuple[int, int]]:
    """Returns [(inputs, outputs), ...] of both MLPs, bottom first; no padding."""
    bottom, top = (DENSE_FEATURES, *task.bottom_mlp), (task.interacted, *task.top_mlp)
    return [*zip(bottom[:-1], bottom[1:]), *zip(top[:-1], top[1:])]


def forward_flops(task: Task) -> int:
    """Returns the operations of one sample's forward pass: the MLPs and the interaction.

    The interaction is the pairs' products, or the two products of each layer of a cross network.
    """
    mlps = 2 * sum(i * o for i, o in layers(task))
    if task.cross_layers:
        return mlps + 2 * task.cross_layers * 2 * task.interacted * task.cross_rank
    features = len(task.vocab_sizes) + 1
    return mlps + 2 * features * (features - 1) // 2 * task.dimension


def train_flops(task: Task) -> int:
    """Returns the operations of one sample's forward and backward pass.

    Three products of equal size per layer (output, weight gradient, input gradient), those of a
    cross network included, and per pair of features (scalar product, a contribution to either
    feature's gradient), except the first layer's input gradient, which is unused.
    """
    inputs, outputs = layers(task)[0]
    return 3 * forward_flops(task) - 2 * inputs * outputs


def seconds_per_sample(task: Task, limits: Mapping[str, float], *, training: bool = True) -> float:
    """Returns the least seconds of one sample.

    Args:
        task: the model.
        limits: measured "flops_per_second", "row_reads_per_second" and "row_updates_per_second" of
            rows as wide as the task's.
        training: forward, backward and update; else only forward.
    """
    rows = sum(task.ids)
    reads = rows / limits["row_reads_per_second"]
    if not training:
        return forward_flops(task) / limits["flops_per_second"] + reads
    updates = rows / limits["row_updates_per_second"]
    return train_flops(task) / limits["flops_per_second"] + reads + updates
