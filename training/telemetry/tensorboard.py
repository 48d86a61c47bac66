"""TensorBoard scalars of a run: `tensorboard --logdir runs`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

# {event: ((field, name of the scalar), ...)}.
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

# As `tf.summary.scalar` writes it, which needs TensorBoard's package: TensorFlow 2.21 has none.
_METADATA = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})


class TensorBoard:
    """Writes the journal's numbers as scalars over steps.

    Args:
        folder: the run's folder; the files go into its `tensorboard`.
    """

    def __init__(self, folder: str | os.PathLike):
        self._writer = tf.summary.create_file_writer(str(pathlib.Path(folder) / "tensorboard"))

    def event(self, record: Mapping[str, Any]) -> None:
        """Writes the event's numbers; a field that is absent or None is left out."""
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
