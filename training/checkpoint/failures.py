"""Makes one clear error of whatever keeps a checkpoint from being written."""

import shutil

import psutil

from training.errors import UserError


class Explained:
    """Makes one clear error of whatever keeps a checkpoint from being written; removes it."""

    def __init__(self, partial, needed, newest):
        self._partial, self._needed, self._newest = partial, needed, newest

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if not isinstance(error, OSError):
            return
        where = getattr(error, "filename", None) or self._partial
        text = f"checkpoint {self._partial}: {error.strerror}: {where}"
        try:
            free = psutil.disk_usage(str(self._partial.parent)).free
            text += f"; this rank needs {self._needed:,} bytes, {free:,} are free"
        except OSError:
            text += "; its folder is gone"
        shutil.rmtree(self._partial, ignore_errors=True)
        raise UserError(f"{text}; the newest whole checkpoint is {self._newest()}") from error
