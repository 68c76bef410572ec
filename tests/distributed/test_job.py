"""The processes of a run, with small commands in place of ranks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from byzdist import __version__
from byzdist.host.signals import Signals
from byzdist.runtime import job as jobs
from byzdist.runtime.job import Failure, Job
from byzdist.transport.keys import worker_key

SECRET = b"s" * 32


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_END_PATIENCE", 0.5)


@contextmanager
def job(program: str, workers: int = 2, patience: float = 5.0) -> Iterator[Job]:
    """Yield a job whose ranks are this program; it knows its ``rank`` and can ``fail(reason)``."""
    head = (
        "import json, os, signal, sys, time; from pathlib import Path; from byzdist.host.supervisor import report_failure; "
        "rank = int(os.environ['RANK']); fail = lambda reason: (report_failure(reason), sys.exit(1))\n"
    )
    words = [sys.executable, "-c", head + program]
    with Signals() as signals, Job(words, "name: x\n", workers, bytearray(SECRET), patience, signals) as started:
        yield started


def run(program: str, attempt: int = 0) -> Failure | None:
    with job(program) as started:
        return started.run(attempt)


def test_each_rank_gets_what_it_needs_and_nothing_of_anybody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    for name in ("BYZDIST_SECRET_FILE", "BYZDIST_KEY", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.setenv(name, "of somebody else")
    program = (
        f"Path({str(tmp_path)!r}, str(rank)).write_text(json.dumps(dict(os.environ, stdin=os.pread(0, 99, 0).decode(),"
        "session=os.getsid(0) == os.getpid())))"
    )
    assert run(program, attempt=3) is None
    seen = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    for rank, it in enumerate(seen):
        assert (it["RANK"], it["LOCAL_RANK"], it["WORLD_SIZE"], it["LOCAL_WORLD_SIZE"]) == (
            str(rank),
            str(rank),
            "3",
            "3",
        )
        assert (it["MASTER_ADDR"], it["TORCHELASTIC_RESTART_COUNT"]) == ("127.0.0.1", "3")
        assert it["stdin"] == "name: x\n" and it["session"] is True
        assert it["GLOO_SOCKET_IFNAME"] == it["NCCL_SOCKET_IFNAME"] == "lo"
        assert it["BYZDIST_AGENT"] == str(os.getpid())
        secrets = {name: value for name, value in it.items() if name.startswith(("BYZDIST_SECRET", "BYZDIST_KEY"))}
        assert secrets == ({"BYZDIST_KEY": worker_key(SECRET, rank).hex()} if rank else {"BYZDIST_SECRET": "s" * 32})
        assert not {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"} & it.keys()
    assert len({it["MASTER_PORT"] for it in seen}) == 1


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("fail('the disk is full') if rank == 1 else time.sleep(60)", "rank 1 failed: the disk is full"),
        (
            "while rank != 2 and not os.fstat(int(os.environ['BYZDIST_REPORT'])).st_size: time.sleep(0.005)\n"
            "fail('it is first' if rank == 2 else 'it comes of that')",
            "rank 2 failed: it is first",
        ),
        (
            "dying = Path('dying')\n"
            "if rank == 2: dying.touch(); os.kill(os.getpid(), 9)\n"
            "while not dying.exists(): time.sleep(0.005)\n"
            "fail('rank 2 is gone')",
            "rank 2 failed: it was ended by SIGKILL",
        ),
        ("sys.exit(137) if rank == 1 else time.sleep(60)", "rank 1 failed: it was ended by SIGKILL"),  # its thin parent
        (
            "rank == 0 and sys.exit(1); time.sleep(60)",
            "rank 0 failed: it ended with exit code 1 before it could say why; see its output above",
        ),
        (
            "rank == 1 and (os.write(int(os.environ['BYZDIST_REPORT']), b'{\"rank\": 1, '), sys.exit(1)); time.sleep(60)",
            "rank 1 failed: it ended with exit code 1 before it could say why; see its output above",
        ),
    ],
)
def test_the_reason_is_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, failure: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(program) == Failure(failure, False)


def test_a_mistake_in_the_configuration_would_only_come_again() -> None:
    assert run(
        "rank == 1 and (report_failure('no such key', is_mistake=True), sys.exit(2)); time.sleep(60)"
    ) == Failure("rank 1 failed: no such key", True)


def test_the_run_is_over_when_the_server_has_ended_well() -> None:
    began = time.monotonic()
    assert run("rank and (signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep(60))") is None
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_comes_to_every_rank_once(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        f"folder = Path({str(tmp_path)!r})\n"
        "def hear(number, frame): (folder / str(rank)).open('a').write(f'{number} ')\n"
        "for number in (1, 2, 15): signal.signal(number, hear)\n"
        "(folder / f'ready{rank}').touch()\n"
        "while not (folder / str(rank)).exists(): time.sleep(0.01)\n"
        "time.sleep(0.3)"
    )

    def tell() -> None:
        while len(list(tmp_path.glob("ready*"))) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    teller = threading.Thread(target=tell)
    teller.start()
    assert run(program) is None
    teller.join()
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [f"{int(number)} "] * 3


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with job("sys.exit(signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)") as started:
            os.kill(os.getpid(), signal.SIGHUP)
            assert started.run(0) is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ranks_that_do_not_heed_a_signal_are_killed() -> None:
    with job("signal.signal(15, signal.SIG_IGN); time.sleep(60)", patience=0.3) as started:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        assert started.run(0) is None
        assert time.monotonic() - began < 10


def test_nothing_is_left_running_or_open() -> None:
    files, before = len(os.listdir("/proc/self/fd")), set(psutil.Process().children(recursive=True))
    run("fail('x') if rank else time.sleep(60)")
    assert set(psutil.Process().children(recursive=True)) <= before
    assert len(os.listdir("/proc/self/fd")) == files


def test_all_ranks_listen_to_loopback_alone() -> None:
    with job("sys.exit(0)") as started:
        assert started._socket.getsockname()[0] == "127.0.0.1"


def clutter(folder: Path) -> None:
    """Fill a folder with what hides a library, or byzdist itself, if it is looked at."""
    (folder / "byzdist").mkdir()  # the parent of a clone of that name
    for name in ("random.py", "json.py", "argparse.py", "subprocess.py", "pathlib.py"):
        (folder / name).write_text("raise ImportError('this is the user\\'s own')\n")


@pytest.mark.parametrize("is_on_path", [False, True])
def test_a_rank_is_the_launchers_own_program_wherever_the_user_stands(tmp_path: Path, is_on_path: bool) -> None:
    clutter(tmp_path)
    path = [it for it in sys.path if it] + [str(tmp_path)] * is_on_path  # as CONFIG's folder is
    program = (
        f"import sys; from byzdist.host import supervisor; sys.path[:] = {path!r}; "
        "import subprocess; sys.exit(subprocess.call(supervisor.own_command(['--version'])))"
    )
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # it is the rank that is tried, not its parent
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path[:] = " + repr(path[: len(path) - is_on_path]) + "; " + program,
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"byzdist {__version__}\n"


def test_a_library_is_not_hidden_by_what_lies_where_the_user_stands(tmp_path: Path) -> None:
    clutter(tmp_path)
    (tmp_path / "byzdist").rmdir()  # which -m itself would find
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(it for it in sys.path if it)}
    command = [sys.executable, "-m", "byzdist", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"byzdist {__version__}\n"


def test_a_worker_that_is_a_fork_wipes_the_secret(tmp_path: Path) -> None:
    secret = bytearray(SECRET)

    def program() -> int:
        (tmp_path / os.environ["RANK"]).write_bytes(secret)
        return 0

    with Job(program, "name: x\n", 2, secret, 5.0, Signals()) as started:
        assert started.run(0) is None
    assert [(tmp_path / f"{rank}").read_bytes() for rank in range(3)] == [SECRET, bytes(32), bytes(32)]
    assert secret == SECRET
