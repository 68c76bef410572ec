"""The thin parent of a worker process: it starts a killed worker again, and torchrun's agent sees a clean end.

One agent ends all its ranks when one of them fails. On the star a lost worker is no failure of the run, so the agent
gets to see this process in its place, which costs a bare interpreter: nothing heavy may be imported here.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

_GRANT = "BYZDIST_GRANT"  # the file descriptor on which the child says how often it may be started again
_MISTAKE = 2  # the exit code of a wrong configuration
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux's; looked up once, before any fork
AGENT = "BYZDIST_AGENT"  # the process of the agent, where it is our own launcher


def is_wanted() -> bool:
    """Return whether this process is a worker that nobody watches over yet."""
    return os.environ.get("RANK", "0") != "0" and _GRANT not in os.environ


def grant(restarts: int) -> None:
    """Say, as the child, that the run goes on without this process, which may be started again so many times."""
    if _GRANT in os.environ:
        os.write(int(os.environ[_GRANT]), bytes([min(restarts, 255)]))


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent, process ``parent``, ends in whatever way (Linux)."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before the line above
        os._exit(1)


def call_process(name: str) -> None:
    """Give this process a name by which ps and pkill know it, at most 15 characters (Linux)."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_NAME, name.encode(), 0, 0, 0)


def end_with_agent() -> None:
    """See to it that this rank is told to end (SIGHUP) once torchrun's agent is gone; without an agent do nothing."""
    if "TORCHELASTIC_RUN_ID" in os.environ and _GRANT not in os.environ:
        die_with_parent(int(os.environ.get(AGENT) or os.getppid()), signal.SIGHUP)


def supervise(command: Sequence[str]) -> int:
    """Run the command until it ends by itself, or was killed more often than it granted; return the exit code.

    Whatever happens before the child's grant is passed on, and so is a mistake in the configuration; else the end is a
    clean one.
    """
    granted, grants = os.pipe()
    os.set_blocking(granted, False)
    me = os.getpid()
    restarts: int | None = None
    tries, told_to_end = 0, list[int]()
    while True:
        child = subprocess.Popen(
            command,
            env={**os.environ, _GRANT: str(grants)},
            pass_fds=[grants],
            start_new_session=True,  # it gets each signal once, from here: agents and terminals signal whole groups
            preexec_fn=lambda: die_with_parent(me),  # noqa: PLW1509 - there are no threads here
        )
        _pass_signals_to(child, told_to_end)
        code = child.wait()
        with contextlib.suppress(BlockingIOError):
            restarts = os.read(granted, 256)[0]
        if restarts is None:
            return code if code >= 0 else 128 - code
        if code >= 0 or told_to_end:
            return code if code == _MISTAKE else 0
        if tries == restarts:
            _say(f"was ended by {signal.Signals(-code).name}; it is not started again (transport.restarts: {restarts})")
            return 0
        tries += 1
        _say(f"was ended by {signal.Signals(-code).name}; starting it again ({tries} of {restarts})")


def _pass_signals_to(child: subprocess.Popen[bytes], seen: list[int]) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)


def _say(text: str) -> None:
    print(f"[w{os.environ.get('RANK')}] the worker process {text}.", file=sys.stderr, flush=True)
