"""The error of every function that reads or writes a dataset."""

from storage.errors import ReportedError


class DatasetError(ReportedError, ValueError):
    """A dataset is missing or damaged, or does not fit the request."""
