"""The errors of preprocessing, one exception class for each kind."""

from storage.errors import ReportedError


class PreprocessError(ReportedError):
    """Base class of every error that preprocessing reports to its user."""


class OptionError(PreprocessError):
    """Options that contradict each other, or that cannot take effect."""


class InputError(PreprocessError):
    """An input file is missing, unreadable, truncated, or not Criteo data."""


class RejectedLinesError(PreprocessError):
    """More lines are malformed than `max_rejects` allows."""


class DictionaryError(PreprocessError):
    """A saved dictionary is damaged or does not fit the options."""


class OutputError(PreprocessError):
    """An output or work folder holds other files, or the complete result of an earlier run."""


class UnseenValueError(PreprocessError):
    """A reused modulo dictionary lacks values that occur in the input."""


class EngineError(PreprocessError):
    """The SQL engine is not installed, or failed."""


class LibraryError(PreprocessError):
    """The library of C++ kernels is missing, or was built from other sources."""


class MemoryLimitError(PreprocessError):
    """The memory limit is too small for the job."""
