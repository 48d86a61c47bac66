"""Loads the weights of a checkpoint for inference."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from training.checkpoint import compatibility, restore
from training.checkpoint.reader import Reader
from training.checkpoint.state import State
from training.runtime.console import warn

if TYPE_CHECKING:
    from training.build import Parts
    from training.runtime.process_group import ProcessGroup


def load_weights(
    reader: Reader, parts: Parts, cluster: ProcessGroup, flags: Mapping[str, Any]
) -> None:
    """Loads a checkpoint's weights into a job that does not train.

    Args:
        reader: the checkpoint.
        parts: the model and data of the job.
        cluster: the ranks.
        flags: {name: value} of the job's settings.

    Raises:
        UserError: the checkpoint belongs to another model.
        DamagedError: the checkpoint lacks values that the model needs.
    """
    data = parts.data
    compatibility.check(reader, flags, data.facts, data.vocab_sizes, resume=False, training=False)
    line = compatibility.unchecked(reader, data.facts)
    if line is not None and cluster.rank == 0:
        warn(line)
    no_optimizer = types.SimpleNamespace(variables=[])
    no_scale = types.SimpleNamespace(variables={}, dynamic=False)
    state = State(parts.dense_model, no_optimizer, no_scale, parts.embedding, cluster)
    restore.load(reader, state, training=False)
