"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".part"  # of files that are not complete yet


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a new file that takes the place of ``path`` when it is complete and on the disk.

    Whenever the process or the machine stops, ``path`` is what it was before or what it is to be.

    Raises:
        OSError: as writing does; ``path`` is then as it was.
    """
    part = path.with_name(path.name + SUFFIX)
    try:
        yield part
        part.chmod(part.parent.stat().st_mode & 0o666)  # whatever library wrote it, who may read the folder may read it
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
