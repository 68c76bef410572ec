"""How a run is told to end after the round in progress: by a signal, for example, or by the loss of its folder."""

import _thread
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from byzdist.host.supervisor import GONE

# Signals within this many seconds count as one: systemd, Slurm and containers signal every process, and torchrun's agent repeats it.
_SAME_SIGNAL = 2.0
_SYSTEM_SIGNAL = ctypes.CDLL(None).signal  # Python's works in the main thread only, which may be waiting for a peer
_FATAL = signal.SIGINT, signal.SIGTERM
_HEEDED = *_FATAL, signal.SIGHUP, GONE


class Stop:
    """A request to end the run after the round in progress.

    Args:
        wake: ends whatever the process waits for; safe to call from a signal handler.

    Attributes:
        is_told: whether it was made.
        signal: the first signal that caused the stop; None if no signal did.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.is_told = False
        self.signal: int | None = None

    def hear(self, number: int) -> None:
        """Ask for the stop because this signal has come."""
        self.signal = self.signal or number
        self.tell()

    def tell(self) -> None:
        """Make the request, from any thread or signal handler."""
        self.is_told = True
        self._wake()


def on_signals(told: Callable[[], None]) -> None:
    """Have ``told`` called when this process is told to end; the second SIGINT or SIGTERM, seconds later, ends it at once."""

    def first(number: int, frame: FrameType | None) -> None:
        told()
        if number != GONE:  # GONE comes from the kernel, once for each thread of the agent
            for repeated in _FATAL:
                signal.signal(repeated, signal.SIG_IGN)
            _thread.start_new_thread(_heed_again, ())  # threading may hold a lock of its own just now

    for number in _HEEDED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, first)


def interrupt_on_signals(told: Callable[[int], None]) -> None:
    """Have ``told`` called at SIGINT or SIGTERM, in a process that continues after the run.

    A second one, seconds later, is a KeyboardInterrupt.

    Outside the main thread it does nothing, because only the main thread handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    came: list[float] = []

    def heed(number: int, frame: FrameType | None) -> None:
        if came and time.monotonic() - came[0] > _SAME_SIGNAL:
            raise KeyboardInterrupt
        came.append(time.monotonic())
        told(number)

    for number in _FATAL:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, heed)


def _heed_again() -> None:
    time.sleep(_SAME_SIGNAL)
    for fatal in _FATAL:
        if signal.getsignal(fatal) is signal.SIG_IGN:  # unless the process has its own handlers back
            _SYSTEM_SIGNAL(fatal, None)


@contextmanager
def signals_given_back() -> Iterator[None]:
    """Restore the signal handlers afterwards, because the process may go on after a run."""
    handlers = {number: signal.getsignal(number) for number in _HEEDED}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
