"""What is wrong with a dataset, as one exception that names file, expected and found."""

from storage.errors import ReportedError


class DatasetError(ReportedError, ValueError):
    """A dataset that is missing, damaged or does not fit what was asked of it."""
