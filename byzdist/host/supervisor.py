"""The thin parent of a worker process: it starts a killed worker again, and the agent that started the rank sees a clean end.

Without an agent, systemd or Kubernetes for example sees how the worker ended, and may start it once more. An agent ends all
its ranks when one of them fails. On the star a lost worker is not a failure of the run, so the agent sees this process in the
worker's place. Under torchrun that costs a bare interpreter, so nothing heavy may be imported here; byzdist's launcher forks it.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

import byzdist
from byzdist.host.processes import Process, Program, die_with_parent, how_it_ended, start

_GRANT = "BYZDIST_GRANT"  # the file descriptor on which the child says how often it may be started again
_NEVER = 255  # what the child says if the run cannot go on without it
_UNTOLD = 3  # how often a child is started again that has said nothing yet, because it has not joined the run
_STOPPED = 120  # seconds after which a stopped child is killed
MISTAKE = 2  # the exit code of a wrong configuration
GONE = signal.SIGUSR2  # tells a rank that its agent is gone; not SIGHUP, because that may be ignored
AGENT = "BYZDIST_AGENT"  # the process id of the agent, if that is byzdist's launcher
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"  # how often the agent, of either kind, has started the whole job again
REPORT = "BYZDIST_REPORT"  # the descriptor of the file to which a rank appends why it failed, for byzdist's launcher
_TORCHRUN = "TORCHELASTIC_RUN_ID"  # in the environment of every rank that torchrun started


def is_wanted() -> bool:
    """Return whether this process is a worker that has no supervisor yet."""
    return os.environ.get("RANK", "0") != "0" and _GRANT not in os.environ


def grant(restarts: int | None) -> None:
    """Tell the parent how often this process may be started again; None: the run cannot go on without it."""
    if _GRANT in os.environ:
        os.write(int(os.environ[_GRANT]), bytes([_NEVER if restarts is None else restarts]))


def end_with_agent() -> None:
    """Have the kernel send this rank `GONE` once its agent is gone; do nothing without an agent."""
    if _has_agent() and _GRANT not in os.environ:
        die_with_parent(int(os.environ.get(AGENT) or os.getppid()), GONE)


def _has_agent() -> bool:
    """Return whether an agent ends all ranks when one of them fails: byzdist's launcher, or torchrun."""
    return AGENT in os.environ or _TORCHRUN in os.environ


def own_command(words: Sequence[str]) -> list[str]:
    """Return the command that runs this very byzdist with these words, by this process's import path and no other.

    With -m the interpreter would look for byzdist, and for all that it imports, in the user's working directory; and the import
    path may have another folder of that name, such as a clone's.
    """
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from importlib import util; "
        f"spec = util.spec_from_file_location('byzdist', {byzdist.__file__!r}); "
        "sys.modules['byzdist'] = package = util.module_from_spec(spec); spec.loader.exec_module(package); "
        "from byzdist.__main__ import main; sys.exit(main())"
    )
    return [sys.executable, "-c", program, *words]


def report_failure(reason: str, *, is_mistake: bool = False) -> bool:
    """Report this rank's failure to the launcher; return whether the launcher will print it, because it is the first."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError), open(file, "w") as there:
            json.dump({"message": reason, "timestamp": str(int(time.time()))}, there)
    if number := os.environ.get(REPORT):
        line = json.dumps({"rank": int(os.environ["RANK"]), "message": reason, "mistake": is_mistake})
        with contextlib.suppress(OSError):
            is_first = os.fstat(int(number)).st_size == 0
            os.write(int(number), line.encode() + b"\n")
            return is_first
    return False


def supervise(program: Program) -> int:
    """Run the program until it ends by itself, or was killed more often than it allowed; return the exit code.

    An agent sees a failure before the child's grant, and a mistake in the configuration; otherwise a clean end.
    """
    granted, grants = os.pipe()
    os.set_blocking(granted, False)
    me = os.getpid()
    restarts: int | None = None
    tries, told_to_end = 0, list[int]()
    while True:
        # In a session of its own the child gets each signal once, from here: agents and terminals signal whole groups.
        child = start(
            program,
            {**os.environ, _GRANT: str(grants)},
            keep=[grants, *([int(os.environ[REPORT])] if REPORT in os.environ else [])],
            first=lambda: die_with_parent(me),
        )
        _pass_signals_to(child, told_to_end)
        code = _end_of(child)
        with contextlib.suppress(BlockingIOError):
            restarts = os.read(granted, 256)[0]
        shown = code if code >= 0 else 128 - code
        if restarts == _NEVER:
            return shown
        if _has_agent() and restarts is not None and (code != MISTAKE or tries):
            shown = 0
        if code >= 0 or told_to_end:
            return shown
        allowed = _UNTOLD if restarts is None else restarts
        how = how_it_ended(code)
        if tries == allowed:
            _say(f"{how}; it is not started again (transport.restarts: {allowed})")
            return shown
        tries += 1
        _say(f"{how}; starting it again ({tries} of {allowed})")


def _end_of(child: Process) -> int:
    """Wait for the child's end and return its exit code; a child that stays stopped (SIGSTOP) is killed, because it would never end."""
    signal.signal(signal.SIGALRM, lambda number, frame: os.kill(child.pid, signal.SIGKILL))
    while True:
        _, status = os.waitpid(child.pid, os.WUNTRACED | os.WCONTINUED)
        signal.alarm(_STOPPED if os.WIFSTOPPED(status) else 0)
        if not os.WIFSTOPPED(status) and not os.WIFCONTINUED(status):
            code = os.waitstatus_to_exitcode(status)
            child.returncode = code
            return code


def _pass_signals_to(child: Process, seen: list[int]) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, GONE):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)


def _say(text: str) -> None:
    print(f"[w{os.environ.get('RANK')}] the worker process {text}.", file=sys.stderr, flush=True)
