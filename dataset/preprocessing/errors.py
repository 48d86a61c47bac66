"""What can go wrong on the way from raw days to records, one exception class for each kind."""

from storage.errors import ReportedError


class PreprocessError(ReportedError):
    """Base of every error that preprocessing reports to its user."""


class OptionError(PreprocessError):
    """Options that contradict each other, or that cannot take effect."""


class InputError(PreprocessError):
    """An input file that is missing, unreadable, truncated, or no Criteo data at all."""


class RejectedLinesError(PreprocessError):
    """More malformed lines than `max_rejects` allows."""


class DictionaryError(PreprocessError):
    """A saved dictionary that is damaged or does not fit the options."""


class OutputError(PreprocessError):
    """An output or work folder that holds what preprocessing did not write, or a whole result."""


class UnseenValueError(PreprocessError):
    """Values that a reused modulo dictionary has no id for."""


class EngineError(PreprocessError):
    """The SQL engine is not installed, or failed."""


class MemoryLimitError(PreprocessError):
    """The memory limit is too small for what was asked."""
