"""The errors that end a job, and its exit codes."""

from storage.errors import ReportedError

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_RANK_LOST = 4
# After SIGINT or SIGTERM: the step is finished, and the checkpoint written if there is a folder.
EXIT_INTERRUPTED = 130


class UserError(ReportedError):
    """Something the user can fix: a flag, a file, a machine that is too small."""

    exit_code = EXIT_USER_ERROR


class DivergedError(Exception):
    """The loss became NaN or infinite."""

    exit_code = EXIT_DIVERGED


class RankLostError(Exception):
    """Another rank died or stopped answering."""

    exit_code = EXIT_RANK_LOST
