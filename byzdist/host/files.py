"""All access to files: writes are whole or not at all, only plain files are opened, and missing features of a file system do no harm.

Somebody else may have filled a run's folder: through a symbolic link or a second name byzdist would write to a file elsewhere, and a
FIFO would block forever. Modes, waiting for the disk and hard links are optional: a file system may lack them.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SUFFIX = ".part"  # the suffix of incomplete files
_MAX_BYTES = 1 << 24  # more than any text that is read as a whole
_NOT_HERE = frozenset(
    getattr(errno, name)
    for name in ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK", "EPERM", "EACCES", "EBADF", "ENOTTY")
    if hasattr(errno, name)
)
"""The errors for an operation that a system lacks or forbids."""
_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def is_missing_here(error: OSError) -> bool:
    """Return whether an error means that this file system lacks or forbids an operation; the error of a full or broken disk does not."""
    return error.errno in _NOT_HERE


def open_plain(path: Path | str, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
    """Open a file that is nothing but a file; return its descriptor.

    Args:
        path: its name.
        flags: as for ``os.open``.
        follow: whether to follow a symbolic link: for files that users name, never within a run's folder.

    Raises:
        OSError: at once, for a link, FIFO, device or folder; also for a file to write to that has a second name (a hard link).
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            _refuse_other_kinds(path, os.stat(path) if follow else os.lstat(path))
        raise
    try:
        facts = os.fstat(handle)
        _refuse_other_kinds(path, facts)
        if facts.st_nlink > 1 and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(
                errno.EMLINK, "it has a second name elsewhere (a hard link); put a copy in its place", str(path)
            )
    except OSError:
        os.close(handle)
        raise
    return handle


def _refuse_other_kinds(path: Path | str, facts: os.stat_result) -> None:
    for is_kind, kind in _KINDS:
        if is_kind(facts.st_mode):
            if kind == "folder":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            raise OSError(errno.EINVAL, f"it is a {kind}, not a plain file", str(path))


def check_plain(path: Path) -> None:
    """Check that a file exists and is a plain file, before a library opens it by its name.

    Raises:
        OSError: if it is not.
    """
    os.close(open_plain(path))


def read_bytes(path: Path, max_bytes: int = _MAX_BYTES, *, follow: bool = False) -> bytes:
    """Return what a file holds.

    Raises:
        OSError: if it cannot be read, is not a plain file, or holds more than ``max_bytes``.
    """
    with os.fdopen(open_plain(path, follow=follow), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it holds more than {max_bytes} bytes", str(path))
    return content


def read_text(path: Path, max_bytes: int = _MAX_BYTES, *, follow: bool = False) -> str:
    """Return the text in a file, without a byte-order mark.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: if it is not UTF-8.
    """
    return read_bytes(path, max_bytes, follow=follow).decode("utf-8-sig")


def read_json(path: Path, max_bytes: int = _MAX_BYTES) -> Any:
    """Return the value in a file of JSON.

    Raises:
        OSError: as `read_bytes`.
        ValueError: if it is not JSON, or nested too deeply.
    """
    return parse_json(read_text(path, max_bytes))


def parse_json(text: str | bytes) -> Any:
    """Return the value that JSON text stands for; raise ValueError if it is not JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def make_folder(path: Path, *, parents: bool = False) -> None:
    """Make a folder within a run's folder, unless it is there.

    Raises:
        OSError: if that is not possible, or if a link of this name leads elsewhere.
    """
    path.mkdir(parents=parents, exist_ok=True)
    if path.is_symlink():
        raise OSError(errno.EINVAL, "it is a symbolic link, not a folder", str(path))


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the name of a new, empty file, which replaces ``path`` once it is complete and on the disk.

    Whenever the process or the machine stops, ``path`` has either its old or its new content. Links that others may have put
    in the place of either are replaced, never followed.

    Args:
        path: the file's name.
        durable: whether to wait for the disk.

    Raises:
        OSError: if writing fails; ``path`` is then unchanged.
    """
    part = path.with_name(path.name + SUFFIX)
    try:
        part.unlink(missing_ok=True)
        os.close(open_plain(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        yield part
        share(part, part.parent)  # whichever library wrote it
        if durable:
            sync(part)
        os.replace(part, path)
        if durable:
            sync(path.parent)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file, whole or not at all; see `replacing`."""
    with replacing(path, durable=durable) as part:
        part.write_text(text, encoding="utf-8")


def share(path: Path, like: Path) -> None:
    """Give a file or folder the access rights of the folder ``like``, if the file system has modes."""
    with _nicety():
        path.chmod(like.stat().st_mode & (0o777 if path.is_dir() else 0o666))


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, if the file system supports that.

    Raises:
        OSError: if they cannot be written there.
    """
    with _nicety():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _nicety() -> Iterator[None]:
    """Ignore errors for operations that this file system lacks."""
    try:
        yield
    except OSError as error:
        if not is_missing_here(error):
            raise


def create_once(path: Path, content: bytes) -> None:
    """Make a file with this content, readable for its owner only, unless it exists already.

    Other processes never see a part of it: it gets its name when it is complete, by a hard link, or by a rename if there are none.

    Raises:
        OSError: if it cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{SUFFIX}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except OSError as error:
            if not is_missing_here(error):
                raise
            if not path.exists():  # of two processes at the same instant, the last one's file stays
                os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
