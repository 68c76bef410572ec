"""Caches that are missing, not writable, another user's or full: the next one is used, or none, and a warning says so."""

import errno
import os
import re
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from byzdist.host.caching import cache_folder, cache_folders, make_cache, own_file
from byzdist.problem.data import DATASETS, prepare
from byzdist.runtime.identity import claim
from byzdist.storage.folder import new_folder
from tests.support.problem import load_arrays
from tests.support.standins import failing, registered
from tests.unit.storage.test_folder import experiment


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of this user's among the temporary ones, which this test has moved."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "temporary" / f"byzdist-{os.getuid()}"


@pytest.fixture
def calls():
    made = []

    def counted():
        made.append(1)
        return np.arange(20.0).reshape(10, 2), np.arange(10) % 2

    with registered(DATASETS, counted=counted):
        yield made


def load():
    found = load_arrays({"name": "counted"})
    assert np.array_equal(found.features, np.arange(20.0).reshape(10, 2))
    assert np.array_equal(found.labels, np.arange(10) % 2) and found.classes == 2 and found.test_labels is None
    return found


def denied(cache, number):
    """Have the system refuse to make anything in a folder."""
    return failing(tempfile, "mkdtemp", number, when=lambda prefix, dir: cache in Path(dir).parents)


@contextmanager
def file_in_the_way(cache, _):
    cache.write_text("")
    yield


@pytest.mark.parametrize(
    ("obstacle", "number"),
    [(file_in_the_way, 0), (denied, errno.EACCES), (denied, errno.EROFS), (denied, errno.ENOSPC)],
)
def test_where_a_cache_cannot_be_written_a_temporary_one_serves(tmp_path, temporary, calls, caplog, obstacle, number):
    with obstacle(tmp_path / "cache", number):
        for _ in range(3):
            assert isinstance(load().features, np.memmap)
    assert len(calls) == 1 and list(temporary.glob("data/counted-*/features.npy"))
    (message,) = caplog.messages
    assert str(tmp_path / "cache") in message and "set BYZDIST_CACHE" in message
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o700


def test_where_nothing_can_be_kept_memory_serves(tmp_path, temporary, calls, caplog):
    with denied(tmp_path, errno.ENOSPC):
        load()
        load()
    assert len(calls) == 2 and len(caplog.messages) == 2  # of each folder, once
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob("counted-*.*[!k]"))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, temporary, calls):
    with failing(np, "save", errno.ENOSPC):
        load()
    assert not [path for path in tmp_path.rglob("counted-*") if path.is_dir()]


def test_what_another_user_has_prepared_is_used_where_it_may_only_be_read(tmp_path, temporary, calls, caplog):
    load()
    with failing(prepare, "make_cache", errno.EACCES), failing(os, "mkdir", errno.EACCES):
        assert isinstance(load().features, np.memmap) and len(calls) == 1 and not caplog.messages


def test_users_who_share_a_folder_can_read_what_the_other_has_prepared(tmp_path, temporary, calls):
    (tmp_path / "cache" / "data").mkdir(parents=True, mode=0o775)
    (tmp_path / "cache" / "data").chmod(0o775)
    load()
    (prepared,) = (path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir())
    assert stat.S_IMODE(prepared.stat().st_mode) == 0o775
    assert all(path.stat().st_mode & stat.S_IROTH for path in prepared.iterdir())


def test_a_mode_that_cannot_be_changed_is_left(tmp_path, temporary, calls, caplog):
    with failing(Path, "chmod", errno.EPERM):
        load()
        assert list(tmp_path.glob("cache/data/counted-*/features.npy")) and not caplog.messages
        found = claim(tmp_path / "run", experiment(), resume=False)
    found.lock.release()


@pytest.mark.parametrize("kind", ["FIFO", "link", "another type"])
def test_what_others_put_into_a_shared_cache_is_not_taken_for_data(tmp_path, temporary, calls, kind):
    load()
    (file,) = tmp_path.glob("cache/data/counted-*/features.npy")
    file.unlink()
    if kind == "FIFO":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("/dev/zero")
    else:
        np.save(file, np.zeros((10, 2), np.complex128))
    load()
    assert len(calls) == 2


def test_a_user_without_a_home_has_a_cache_among_the_temporary_folders(tmp_path, temporary, monkeypatch):
    monkeypatch.delenv("BYZDIST_CACHE")
    with failing(Path, "home", RuntimeError("Could not determine home directory.")):
        assert cache_folder() == temporary and cache_folders() == [temporary]


def test_a_home_that_is_not_there_and_cannot_be_made_does_no_harm(tmp_path, temporary, calls, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("BYZDIST_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "nobody"))
    load()
    assert list(temporary.glob("data/counted-*")) and "BYZDIST_CACHE" in caplog.text


@pytest.mark.parametrize("value", ["~/c", "$HOME/c", "${HOME}/c"])
def test_the_name_of_a_cache_is_expanded(tmp_path, monkeypatch, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BYZDIST_CACHE", value)
    assert cache_folder() == tmp_path / "c"


@pytest.mark.parametrize("how", ["open to all", "a link", "a file", "another's"])
def test_a_temporary_folder_that_others_may_have_put_there_is_not_used(tmp_path, temporary, monkeypatch, how):
    if how == "open to all":
        temporary.mkdir(mode=0o777)
        temporary.chmod(0o777)
    elif how == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        temporary.symlink_to(tmp_path / "theirs")
    elif how == "a file":
        temporary.write_text("")
    else:
        temporary.mkdir(mode=0o700)
        true_uid = os.getuid()
        os.chown(temporary, true_uid + 1, -1) if true_uid == 0 else pytest.skip("needs root")
    with pytest.raises(OSError):
        make_cache(temporary)


def test_where_there_is_no_temporary_folder_at_all_memory_serves(tmp_path, temporary, calls, caplog):
    (tmp_path / "cache").write_text("")
    none = FileNotFoundError(errno.ENOENT, "No usable temporary directory found")
    with failing(tempfile, "gettempdir", none), failing(Path, "mkdir", errno.EROFS, when=own_temporary_folder):
        load()
    assert len(calls) == 1 and not list(tmp_path.rglob("*.npy"))
    assert [message.split()[0] for message in caplog.messages] == [str(tmp_path / "cache"), f"/tmp/{temporary.name}"]


def own_temporary_folder(path, **_):
    return path.name == f"byzdist-{os.getuid()}"


def test_a_file_of_ones_own_stays_and_is_nobody_elses(tmp_path, temporary):
    path = own_file("secret", b"first")
    assert path == own_file("secret", b"second") and path.read_bytes() == b"first"
    assert path.parent == tmp_path / "cache" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_users_of_a_cache_have_a_file_each(tmp_path, temporary):
    first = own_file("secret", b"first")
    os.chown(first, os.getuid() + 1, -1) if os.getuid() == 0 else pytest.skip("needs root")
    second = own_file("secret", b"second")
    assert second != first and second.read_bytes() == b"second" and first.read_bytes() == b"first"


@pytest.mark.parametrize("count", [3, 12])
def test_runs_of_one_name_that_start_in_one_second_get_a_folder_each(tmp_path, count):
    made = [new_folder(tmp_path / "runs" / "case-20260101-000000") for _ in range(count)]
    names = [path.name for path in made]
    assert names[:3] == ["case-20260101-000000", "case-20260101-000000_2", "case-20260101-000000_3"]
    assert len(set(names)) == count
    for path in made:
        claim(path, experiment(), resume=False).lock.release()


def test_a_run_without_a_folder_gets_one_that_is_named_after_it_and_the_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # one second may have passed, or not
        run = claim(None, experiment(), resume=False)
        assert re.fullmatch(r"runs/case-\d{8}-\d{6}(_2)?", str(run.path))
        run.lock.release()
        claim(run.path, experiment(), resume=False).lock.release()  # the server, after the launcher
    assert len(list(Path("runs").iterdir())) == 2


def test_names_that_differ_in_case_alone_share_nothing_on_a_file_system_that_sees_none(tmp_path, temporary):
    def mine(value):
        return lambda: (np.full((4, 2), value), np.arange(4) % 2)

    with registered(DATASETS, Mine=mine(1.0), mine=mine(2.0)):
        for _ in range(2):  # from the function, and from the cache
            assert [load_arrays({"name": name}).features[0, 0] for name in ("Mine", "mine")] == [1.0, 2.0]
    names = {path.name.lower() for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()}
    assert len(names) == 2


LITTER = ["lost+found", ".DS_Store", "._run", ".nfs0000000000a1", "Thumbs.db", "desktop.ini", ".fuse_hidden0001"]


@pytest.mark.parametrize("litter", LITTER)
def test_what_a_system_leaves_in_a_folder_is_nobodys_work(tmp_path, litter):
    (tmp_path / litter).mkdir() if litter == "lost+found" else (tmp_path / litter).write_text("")
    claim(tmp_path, experiment(), resume=False).lock.release()
    assert (tmp_path / litter).exists()
