"""The ops that end a training step: the update of all dense variables, and the record of the loss.

They exist on GPUs only. Elsewhere use `training.optimizers` and `training.dense_phases.LossRecord`.
"""

from ops.dense_update.native import MOST, dense_update, record_loss

__all__ = ["MOST", "dense_update", "record_loss"]
