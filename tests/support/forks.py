"""Runs many experiments with real processes, one after another, for little more than the time that they train.

``python -m tests.support.forks FILE``: each line of the file is a run's folder and its number of workers. This process imports what all
ranks need, once; then every rank of every run is a fork of it that does what ``python -m byzdist run`` does under torchrun.
"""

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import byzdist.config.checks  # noqa: F401 - which a rank would import on its own
from byzdist.runtime.command import RunCommand
from byzdist.runtime.rank import run_rank
from tests.support.harness import free_port

_PATIENCE = 60.0  # seconds a run


def _rank(folder: Path, rank: int, size: int, port: int) -> int:
    """Fork a rank whose output goes to a file in the folder; return the process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {
            "RANK": f"{rank}",
            "LOCAL_RANK": f"{rank}",
            "WORLD_SIZE": f"{size}",
            "LOCAL_WORLD_SIZE": f"{size}",
        }
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "GLOO_SOCKET_IFNAME": "lo"}
        code = run_rank(RunCommand(str(folder / "config.yaml"), out=folder / "run")).code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _run(folder: Path, workers: int) -> None:
    port = free_port()
    left = {_rank(folder, rank, 1 + workers, port) for rank in range(1 + workers)}
    until, failed = time.monotonic() + _PATIENCE, False
    while left and not failed and time.monotonic() < until:
        child, status = os.waitpid(-1, os.WNOHANG)
        left.discard(child)
        failed = child != 0 and status != 0
        time.sleep(0 if child else 0.005)
    for child in left:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    if left or failed:
        raise SystemExit(f"{folder.name} {'failed' if failed else 'did not end'}:\n{(folder / 'log').read_text()}")


if __name__ == "__main__":
    for line in Path(sys.argv[1]).read_text().splitlines():
        _folder, _, _workers = line.rpartition(" ")
        _run(Path(_folder), int(_workers))
