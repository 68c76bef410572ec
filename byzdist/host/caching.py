"""Where prepared data and found minima are kept between runs: the user's cache folder, or a replacement."""

import errno
import logging
import os
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

from byzdist.host.files import create_once

log = logging.getLogger(__name__)
VARIABLE = "BYZDIST_CACHE"


def cache_folder() -> Path:
    """Return $BYZDIST_CACHE, else ~/.cache/byzdist; for a user without a home, a temporary folder of this user's own."""
    if chosen := os.environ.get(VARIABLE):
        return Path(os.path.expandvars(chosen)).expanduser()
    try:
        return Path.home() / ".cache" / "byzdist"
    except RuntimeError:
        return _own_temporary_folder()


def cache_folders() -> list[Path]:
    """Return the folders to try in turn: another user's cache may serve, even if this user cannot write there."""
    return list(dict.fromkeys([cache_folder(), _own_temporary_folder()]))


def own_file(name: str, content: bytes) -> Path:
    """Return the path of a file of this user's alone, kept from run to run; ``content`` is what a new one holds.

    Raises:
        OSError: if it cannot be written anywhere.
    """
    *others, last = cache_folders()
    for folder in others:
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                create_once(path, content)
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid():
                return path
        except OSError as error:
            say_that_it_cannot_be_used(folder, error)
    make_cache(last)
    if not (last / name).exists():
        create_once(last / name, content)
    return last / name


def _own_temporary_folder() -> Path:
    return Path(_temporary_folder()) / f"byzdist-{os.getuid()}"


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # no folder is writable
        return "/tmp"


def make_cache(folder: Path) -> None:
    """Make a cache folder; one among the temporary ones must be this user's alone, because others may have made one of its name.

    Raises:
        OSError: if that is not possible, or if it belongs to somebody else.
    """
    if folder != _own_temporary_folder():
        folder.mkdir(parents=True, exist_ok=True)
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PermissionError(errno.EPERM, "it is not a folder of this user's alone", str(folder))


@lru_cache(maxsize=64)
def _say(folder: Path, reason: str) -> None:
    log.warning(
        "%s cannot be used as a cache (%s); set %s to a folder that this user can write.", folder, reason, VARIABLE
    )


def say_that_it_cannot_be_used(folder: Path, error: OSError) -> None:
    """Warn, once in each process, that a cache folder cannot be used."""
    # numpy raises an OSError without an errno for a short write
    _say(folder, error.strerror or f"{error}: is the disk full?")
