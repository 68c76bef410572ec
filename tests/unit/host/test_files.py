"""Access to files: plain files only, whole or not at all, whatever a file system lacks."""

import errno
import fcntl
import os
import socket
import stat
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from byzdist.host import files
from byzdist.host.files import (
    create_once,
    make_folder,
    open_plain,
    read_bytes,
    read_json,
    read_text,
    replacing,
    share,
    sync,
    write_text,
)
from byzdist.host.locks import Lock, LockTaken
from tests.support.standins import failing


@pytest.fixture
def victim(tmp_path):
    """A file that is nobody's to touch but its owner's; it is looked at again at the end."""
    path = tmp_path / "elsewhere"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


def plant(path, kind, victim):
    """Put something in the place of a file."""
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            here = os.getcwd()
            os.chdir(path.parent)  # the name of a socket may have some 100 characters
            end.bind(path.name)
            os.chdir(here)
    elif kind == "second name":
        os.link(victim, path)


KINDS = ("link", "dangling link", "loop", "FIFO", "folder", "device", "socket")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_APPEND])
def test_what_stands_in_for_a_file_is_refused_at_once(tmp_path, victim, kind, flags):
    plant(tmp_path / "file", kind, victim)
    started = time.monotonic()
    with pytest.raises(OSError):
        open_plain(tmp_path / "file", flags)
    assert time.monotonic() - started < 60
    assert not (tmp_path / "nowhere").exists()


def test_the_refusal_says_what_it_is(tmp_path, victim):
    for kind, word in (("link", "symbolic link"), ("FIFO", "FIFO"), ("folder", "Is a directory"), ("socket", "socket")):
        plant(tmp_path / kind, kind, victim)
        with pytest.raises(OSError, match=word):
            read_bytes(tmp_path / kind)


def test_a_second_name_may_be_read_but_not_written_to(tmp_path, victim):
    plant(tmp_path / "file", "second name", victim)
    assert read_text(tmp_path / "file") == "mine"
    with pytest.raises(OSError, match="second name"):
        open_plain(tmp_path / "file", os.O_RDWR)


def test_links_that_users_name_are_followed_to_plain_files_only(tmp_path, victim):
    (tmp_path / "to file").symlink_to(victim)
    assert read_text(tmp_path / "to file", follow=True) == "mine"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to fifo").symlink_to(tmp_path / "fifo")
    for name in ("to fifo", "fifo"):
        with pytest.raises(OSError, match="FIFO"):
            read_bytes(tmp_path / name, follow=True)
    with pytest.raises(OSError, match="device"):
        read_bytes(Path("/dev/zero"), follow=True)


def test_more_than_is_wanted_is_refused_without_being_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 1000 bytes"):
        read_bytes(tmp_path / "sparse", 1000)
    (tmp_path / "exact").write_bytes(b"x" * 1000)
    assert len(read_bytes(tmp_path / "exact", 1000)) == 1000


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "file").write_bytes("name: ü".encode("utf-8-sig"))
    assert read_text(tmp_path / "file") == "name: ü"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "{", "\0"])
def test_json_that_is_none_or_nested_without_end_is_a_value_error(tmp_path, text):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError):
        read_json(tmp_path / "file")


@pytest.mark.parametrize("kind", [*KINDS, "second name"])
@pytest.mark.parametrize("place", ["file", "file" + files.SUFFIX])
def test_writing_a_file_replaces_what_was_planted_and_follows_nothing(tmp_path, victim, kind, place):
    plant(tmp_path / place, kind, victim)
    if kind == "folder":
        with pytest.raises(OSError):
            write_text(tmp_path / "file", "new")
        return
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new" and not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").stat().st_nlink == 1 and not (tmp_path / ("file" + files.SUFFIX)).exists()


def test_a_file_that_cannot_be_completed_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(OSError), replacing(tmp_path / "file") as part:
        part.write_text("half")
        raise OSError(errno.ENOSPC, "full")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


def test_a_folder_that_is_a_link_is_none_of_the_runs(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        make_folder(tmp_path / "folder")
    make_folder(tmp_path / "real")
    make_folder(tmp_path / "real")


LACKING = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EACCES]
BROKEN = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS]


@pytest.mark.parametrize(("owner", "operation"), [(Path, "chmod"), (os, "fsync")])
@pytest.mark.parametrize("number", LACKING)
def test_a_file_system_without_modes_or_syncs_serves(tmp_path, owner, operation, number):
    with failing(owner, operation, number):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("number", BROKEN)
def test_a_disk_that_is_full_or_broken_is_no_nicety(tmp_path, number):
    with failing(os, "fsync", number):
        with pytest.raises(OSError):
            write_text(tmp_path / "file", "new")
        assert not list(tmp_path.iterdir())
        with pytest.raises(OSError):
            sync(tmp_path)


def test_a_file_is_as_open_as_its_folder(tmp_path):
    for mode in (0o700, 0o755, 0o775):
        tmp_path.chmod(mode)
        write_text(tmp_path / "file", "new")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode & 0o666
    (tmp_path / "inner").mkdir(mode=0o700)
    share(tmp_path / "inner", tmp_path)
    assert stat.S_IMODE((tmp_path / "inner").stat().st_mode) == 0o775


@pytest.mark.parametrize("number", [None, *LACKING])
def test_a_file_appears_once_with_all_that_it_holds(tmp_path, number):
    with nullcontext() if number is None else failing(os, "link", number):
        create_once(tmp_path / "file", b"first")
        create_once(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_who_has_a_lock_keeps_others_out_until_he_lets_go(tmp_path):
    with Lock(tmp_path / ".lock"):
        started = time.monotonic()
        with pytest.raises(LockTaken):
            Lock(tmp_path / ".lock").acquire(0.2)
        assert 0.2 <= time.monotonic() - started < 60
    Lock(tmp_path / ".lock").acquire(0)


def test_who_waits_for_a_lock_gets_it(tmp_path):
    first = Lock(tmp_path / ".lock")
    first.acquire(0)
    threading.Timer(0.2, first.release).start()
    Lock(tmp_path / ".lock").acquire(30)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_without_locks_one_does_without_and_says_so_once(tmp_path, caplog, number):
    with failing(fcntl, "flock", number):
        for _ in range(3):
            with Lock(tmp_path / ".lock"):
                pass
    (message,) = caplog.messages
    assert "without locks" in message and str(tmp_path) in message


def test_a_lock_fails_where_the_disk_does(tmp_path):
    with failing(fcntl, "flock", errno.EIO), pytest.raises(OSError):
        Lock(tmp_path / ".lock").acquire(0)


@pytest.mark.parametrize("kind", [*KINDS, "second name"])
def test_a_planted_lock_is_refused_and_its_target_keeps_its_content(tmp_path, victim, kind):
    plant(tmp_path / ".lock", kind, victim)
    started = time.monotonic()
    with pytest.raises(OSError):
        Lock(tmp_path / ".lock").acquire(0)
    assert time.monotonic() - started < 60


def test_another_users_lock_file_that_can_only_be_read_is_a_lock(tmp_path):
    (tmp_path / ".lock").touch()
    with failing(os, "open", errno.EACCES, when=lambda path, flags, mode: flags & os.O_RDWR):
        with Lock(tmp_path / ".lock"), pytest.raises(LockTaken):
            Lock(tmp_path / ".lock").acquire(0)
