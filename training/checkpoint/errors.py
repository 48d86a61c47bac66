"""The error for a checkpoint that cannot be read."""

from storage.errors import ReportedError


class DamagedError(ReportedError, ValueError):
    """A checkpoint file is missing, truncated or changed; the message names it."""
