"""The loss scale of mixed precision, and the skipping of steps that are not finite."""

from __future__ import annotations

import tensorflow as tf

from training.config import SpeedConfig
from training.runtime.errors import UserError

# Static scale for float16 in the published runs.
STATIC_FLOAT16 = 1024.0
# Dynamic scaling after Micikevicius et al. 2018 (https://arxiv.org/abs/1710.03740), with the
# constants of TensorFlow's and NVIDIA's implementations.
INITIAL, GROWTH_INTERVAL, SMALLEST = 2.0**15, 2000, 1.0


def compute_dtype(speed: SpeedConfig, gpus: int) -> tf.DType:
    """Returns the dtype of arithmetic and exchange: float32 without --amp.

    Args:
        speed: the settings.
        gpus: number of GPUs that this process sees.

    Raises:
        UserError: the interaction op does not support the type on a CPU.
    """
    if not speed.amp:
        return tf.float32
    name = speed.amp_dtype
    if name == "auto":
        name = "float16" if gpus else "bfloat16"
    if name == "float16" and not gpus and speed.custom_interact:
        problem = (
            "not possible with --custom_interact on a CPU; use bfloat16, or leave out "
            "--custom_interact"
        )
        raise UserError.of_flag("amp_dtype", name, problem)
    return tf.as_dtype(name)


def loss_scale(speed: SpeedConfig, dtype: tf.DType, *, skip_nonfinite: bool) -> LossScale:
    """Returns the `LossScale` of a configuration.

    Args:
        speed: the settings.
        dtype: the result of `compute_dtype`.
        skip_nonfinite: see `LossScale`.
    """
    value = speed.loss_factor
    if value == "dynamic":
        return LossScale(INITIAL, dynamic=True)
    if value == "auto":
        value = STATIC_FLOAT16 if dtype == tf.float16 else 1.0
    return LossScale(float(value), skip_nonfinite=skip_nonfinite)


class LossScale:
    """A factor on the loss; the gradients are divided by it again.

    With dynamic scaling, all ranks skip a step whose loss or gradients are infinite or NaN, and
    halve the scale. `GROWTH_INTERVAL` finite steps in a row double it.

    Args:
        value: the scale; with dynamic scaling, the initial one.
        dynamic: whether to adjust the scale during training.
        skip_nonfinite: whether to skip such steps also with a static scale.

    Attributes:
        dynamic: whether the scale is adjusted during training.
        skips: whether steps that are not finite are skipped.
    """

    def __init__(
        self, value: float, *, dynamic: bool = False, skip_nonfinite: bool = False
    ) -> None:
        self.dynamic = dynamic
        self.skips = dynamic or skip_nonfinite
        self._scale = tf.Variable(
            tf.constant(value, tf.float32), trainable=False, name="loss_scale"
        )
        self._good = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="good_steps")
        self._skipped = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="skipped_steps")
        self._in_a_row = tf.Variable(
            tf.zeros([], tf.int64), trainable=False, name="skipped_in_a_row"
        )

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """{name: variable}, as stored in checkpoints."""
        return {"loss_scale": self._scale, "good_steps": self._good,
                "skipped_steps": self._skipped, "skipped_in_a_row": self._in_a_row}  # fmt: skip

    def tensor(self) -> tf.Tensor:
        """Returns the scale of the next step, a scalar float32 tensor."""
        return self._scale.read_value()

    def value(self) -> float:
        """Returns the scale as a float."""
        return float(self._scale.numpy())

    def skipped(self) -> tuple[int, int]:
        """Returns (skipped steps so far, skipped steps since the last finite one)."""
        return int(self._skipped.numpy()), int(self._in_a_row.numpy())

    def after_step(self, finite: tf.Tensor) -> None:
        """Counts a step and, with dynamic scaling, adjusts the scale.

        Args:
            finite: scalar bool tensor, equal on all ranks.
        """
        one, none = tf.constant(1, tf.int64), tf.constant(0, tf.int64)
        self._skipped.assign_add(tf.where(finite, none, one))
        self._in_a_row.assign(tf.where(finite, none, self._in_a_row + 1))
        if not self.dynamic:
            return
        good = tf.where(finite, self._good + 1, none)
        grown = good >= GROWTH_INTERVAL
        scale = tf.where(finite, self._scale, tf.maximum(self._scale / 2, SMALLEST))
        # Limits the scale: 2^127 doubled would be infinite, and no gradient needs more than 2^24.
        self._scale.assign(tf.where(grown, tf.minimum(scale * 2, 2.0**24), scale))
        self._good.assign(tf.where(grown, none, good))
