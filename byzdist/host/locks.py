"""Locks between processes, if the file system has them."""

import errno
import fcntl
import logging
import os
import time
from functools import lru_cache
from pathlib import Path

from byzdist.host.files import is_missing_here, open_plain

log = logging.getLogger(__name__)
_LOOK_EVERY = 0.05  # seconds


class LockTaken(OSError):
    """Another process has the lock."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EWOULDBLOCK, "another process has taken it", str(path))


class Lock:
    """Keeps other processes out while it is held; as a context manager it waits without limit.

    If there are no locks, as on some network file systems, no process is kept out, and a warning says so. The lock ends with the
    process that holds it, in whatever way that ends. The file stays, with its content unchanged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self, patience: float | None = None) -> None:
        """Take the lock, or take it again if its file was removed.

        Args:
            patience: how long to wait while another process has it, in seconds; None: without limit.

        Raises:
            LockTaken: if another process still has it.
            OSError: if the file cannot be opened for another reason, or is not a plain file.
        """
        self.release()
        handle = self._open()
        until = None if patience is None else time.monotonic() + patience
        try:
            while not self._taken(handle):
                if until is not None and time.monotonic() >= until:
                    raise LockTaken(self._path)
                time.sleep(_LOOK_EVERY)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def _open(self) -> int:
        try:
            return open_plain(self._path, os.O_RDWR | os.O_CREAT)
        except PermissionError:  # another user's file: opening it for reading is enough for a lock
            return open_plain(self._path)

    def _taken(self, handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if not is_missing_here(error):
                raise
            _say_that_there_are_none(str(self._path.parent), error.strerror)
        return True

    def release(self) -> None:
        """Let others in."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@lru_cache(maxsize=64)
def _say_that_there_are_none(folder: str, reason: str) -> None:
    log.warning("%s is on a file system without locks (%s): let no two runs use one folder there.", folder, reason)
