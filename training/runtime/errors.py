"""The errors that end a job, and their exit codes."""

from storage.errors import ReportedError

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_RANK_LOST = 4
# By SIGINT or SIGTERM, after the step was finished and a checkpoint written where asked for.
EXIT_INTERRUPTED = 130


class UserError(ReportedError):
    """Something the user can fix: a flag, a file, a machine that is too small."""

    exit_code = EXIT_USER_ERROR


class DivergedError(Exception):
    """The loss is not finite any more."""

    exit_code = EXIT_DIVERGED


class RankLostError(Exception):
    """Another rank died or stopped answering."""

    exit_code = EXIT_RANK_LOST
