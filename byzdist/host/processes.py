"""Processes of a run: another program, or a fork of this process, which has imported everything already."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Protocol

from byzdist.errors import ConfigError, RunError

Program = Sequence[str] | Callable[[], int]
"""The words of a command, or a function that a fork calls; its result is the exit code."""
_HANDLED = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_GET_NAME = 1, 15, 16
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only; looked up once, before any fork


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent, process ``parent``, ends (Linux)."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the line above
        os._exit(1)


def name_process(name: str) -> None:
    """Set the name of this process that ps and pkill show, at most 15 characters (Linux)."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_NAME, name.encode(errors="surrogateescape"), 0, 0, 0)


def process_name() -> str:
    """Return the name of this process that ps and pkill show; "" if it cannot be read."""
    name = ctypes.create_string_buffer(16)
    if _PRCTL is not None:
        _PRCTL(_PR_GET_NAME, name, 0, 0, 0)
    return name.value.decode(errors="surrogateescape")


def how_it_ended(code: int) -> str:
    """Return how a process ended, in words, from its exit code, which is negative for a signal."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}; see above"


class Process(Protocol):
    """The part of `subprocess.Popen` that is used; the exit code of a signal is negative."""

    pid: int
    returncode: Any

    def poll(self) -> int | None:
        """Return the exit code, or None while the process lives."""

    def wait(self) -> int:
        """Wait for the end and return the exit code."""

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""


class _Fork:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        code = self._reap(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


LIBRARIES = {
    "OMP_NUM_THREADS": "1",  # as torchrun sets it for several processes
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # else a restart of the store fills the log with stack traces
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # else torch.cuda.is_available(), in a user's module, would spoil later forks
}
"""What libraries read in the environment when they are imported, unless the user has set it."""


def set_up_libraries() -> None:
    """Set `LIBRARIES` in this process's environment, before torch is imported."""
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)


def start(
    program: Program,
    environment: Mapping[str, str],
    *,
    keep: Sequence[int] = (),
    close: Sequence[int] = (),
    stdin: BinaryIO | None = None,
    first: Callable[[], None] = lambda: None,
) -> Process:
    """Start a program as the leader of a new session.

    A fork costs milliseconds where a new interpreter takes two seconds to import torch (tests/benchmarks/start.py). The
    parent must have no thread but the main one, and must have computed nothing: neither OpenMP nor CUDA survives a fork.

    Args:
        program: what to start.
        environment: the new process's whole environment.
        keep: descriptors that it inherits.
        close: descriptors that it must not inherit; a fork would inherit all.
        stdin: its standard input, else this process's.
        first: called in the new process before anything else.
    """
    if not callable(program):
        return subprocess.Popen(
            program, env=environment, stdin=stdin, pass_fds=keep, start_new_session=True, preexec_fn=first
        )
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes before the fork has its own handlers waits until it has them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        child = os.fork()
        if child:
            return _Fork(child)
        _be(program, environment, close, stdin, first, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise AssertionError("a fork never returns")


def _be(
    program: Callable[[], int],
    environment: Mapping[str, str],
    close: Sequence[int],
    stdin: BinaryIO | None,
    first: Callable[[], None],
    mask: set[Any],
) -> None:
    """Run the program in the forked process, and end it."""
    code = 1
    try:
        os.setsid()
        first()
        signal.set_wakeup_fd(-1)  # the descriptor is the parent's
        for number in _HANDLED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.clear()
        os.environ.update(environment)
        for descriptor in close:
            os.close(descriptor)
        if stdin is not None:
            os.dup2(stdin.fileno(), 0)
        code = program()
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        if not isinstance(error, SystemExit):
            traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def call_in_fork(function: Callable[[], Any]) -> Any:
    """Call a function in a fork, so that it leaves nothing behind in this process; return its result, which must be JSON.

    Raises:
        ConfigError, RunError: as the function raised them; also a RunError if the fork was killed.
    """
    told, tells = os.pipe()

    def program() -> int:
        try:
            said: Any = ["result", function()]
        except (ConfigError, RunError) as error:
            said = [type(error).__name__, str(error)]
        with open(tells, "w") as pipe:
            json.dump(said, pipe)
        return 0

    me = os.getpid()
    process = start(program, dict(os.environ), close=[told], first=lambda: die_with_parent(me))
    os.close(tells)
    try:
        with open(told) as pipe:
            text = pipe.read()
    except BaseException:
        process.send_signal(signal.SIGKILL)
        raise
    finally:
        code = process.wait()
    if not text:
        raise RunError(f"the check of configuration, data and model {how_it_ended(code)}.")
    kind, said = json.loads(text)
    if kind != "result":
        raise {"ConfigError": ConfigError, "RunError": RunError}[kind](said)
    return said
