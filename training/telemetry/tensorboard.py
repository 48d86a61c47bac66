"""Writes TensorBoard scalars; view with `tensorboard --logdir runs`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

# {event: ((field, scalar name), ...)}.
_SCALARS = {
    "step": (
        ("loss", "train/loss"),
        ("learning_rate", "train/learning_rate"),
        ("samples_per_second", "speed/samples_per_second"),
        ("loss_scale", "train/loss_scale"),
        ("skipped_steps", "train/skipped_steps"),
    ),
    "evaluation": (
        ("auc", "test/auc"),
        ("log_loss", "test/log_loss"),
        ("seconds", "speed/evaluation_seconds"),
    ),
    "checkpoint": (
        ("seconds", "speed/checkpoint_seconds"),
        ("pause_seconds", "speed/checkpoint_pause_seconds"),
    ),
    "memory": (("peak_resident_bytes", "memory/peak_resident_bytes"),),
}

# The metadata of `tf.summary.scalar`, which needs the package tensorboard: TensorFlow 2.21 no
# longer depends on it.
_METADATA = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})


class TensorBoard:
    """Writes numbers of the journal as scalars by step to `folder`/tensorboard."""

    def __init__(self, folder: str | os.PathLike):
        self._writer = tf.summary.create_file_writer(str(pathlib.Path(folder) / "tensorboard"))

    def event(self, record: Mapping[str, Any]) -> None:
        """Writes the event's numbers, except fields that are absent or None."""
        with self._writer.as_default():
            for field, name in _SCALARS.get(record["event"], ()):
                if record.get(field) is not None:
                    value = tf.cast(record[field], tf.float32)
                    tf.summary.write(name, value, step=record["step"], metadata=_METADATA)
        if record["event"] != "step":
            self._writer.flush()

    def close(self) -> None:
        """Writes the remaining scalars to disk."""
        self._writer.close()
