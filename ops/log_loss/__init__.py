"""A model's last layer with the log loss in one op, and a check for finite numbers (GPUs only)."""

from ops.log_loss.native import MOST_TENSORS, MOST_WIDTH, LogLoss, all_finite, log_loss

__all__ = ["MOST_TENSORS", "MOST_WIDTH", "LogLoss", "all_finite", "log_loss"]
