"""What is wrong with a dataset, as one exception that names file, expected and found."""


class DatasetError(ValueError):
    """A dataset that is missing, damaged or does not fit what was asked of it."""
