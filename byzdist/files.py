"""Files that are there whole or not at all."""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".part"  # of files that are not complete yet
SPARE = 32  # descriptors that only saving may use


class _SpareFiles:
    """A context in which this process may open some more files than else, so that it can save when all others are taken."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._limits = 0, 0

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                more = soft + SPARE if hard == resource.RLIM_INFINITY else min(soft + SPARE, hard)
                if soft != resource.RLIM_INFINITY:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


spare_files = _SpareFiles()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a new file that takes the place of ``path`` when it is complete and on the disk.

    Whenever the process or the machine stops, ``path`` is what it was before or what it is to be.

    Raises:
        OSError: as writing does; ``path`` is then as it was.
    """
    part = path.with_name(path.name + SUFFIX)
    with spare_files:
        try:
            yield part
            # Whatever library wrote it, who may read the folder may read it.
            part.chmod(part.parent.stat().st_mode & 0o666)
            sync(part)
            os.replace(part, path)
            sync(path.parent)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
