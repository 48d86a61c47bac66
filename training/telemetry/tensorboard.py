"""TensorBoard scalars of a run: `tensorboard --logdir runs`."""

import pathlib

import tensorflow as tf

# Of which event, which fields, under which name.
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


class TensorBoard:
    """Writes the journal's numbers as scalars over steps.

    Args:
        folder: the run's folder; the files go into its `tensorboard`.
    """

    def __init__(self, folder):
        self._writer = tf.summary.create_file_writer(str(pathlib.Path(folder) / "tensorboard"))

    def event(self, record):
        """Writes the event's numbers; a field that is absent or None is left out."""
        with self._writer.as_default():
            for field, name in _SCALARS.get(record["event"], ()):
                if record.get(field) is not None:
                    tf.summary.scalar(name, record[field], step=record["step"])
        if record["event"] != "step":
            self._writer.flush()

    def close(self):
        """Brings what is left to disk."""
        self._writer.close()
