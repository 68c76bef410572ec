"""Ctrl-C before training begins: it ends the process at once, with one line and no traceback. This module imports nothing heavy.

Python handles a signal between two of its instructions: within an import, whose traceback fills a screen, and not at all while it
waits in C for a store or a file. So a thread watches as well. Code that later sets its own handlers replaces both.
"""

import os
import signal
import sys
import threading
from types import FrameType

_THREAD = "interrupt"
_SIGNALS = signal.SIGINT, signal.SIGTERM
# In the environment of ranks that an agent starts, ends, and reports about.
_AGENTS = "BYZDIST_AGENT", "TORCHELASTIC_RUN_ID"
_once = threading.Lock()


def end_at_once() -> None:
    """Have SIGINT and SIGTERM end this process with a line; silently if it is a rank under an agent."""
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    if any(name in os.environ for name in _AGENTS):
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        return
    seen, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _end)
    threading.Thread(target=_watch, args=(seen,), name=_THREAD, daemon=True).start()


def other_threads() -> list[str]:
    """Return the names of this process's threads, sorted, except the main thread and the one that `end_at_once` starts."""
    names = {thread.name for thread in threading.enumerate()}
    return sorted(names - {threading.main_thread().name, _THREAD})


def _watch(seen: int) -> None:
    while number := os.read(seen, 1):
        if signal.getsignal(number[0]) is _end:
            _end(number[0], None)


def _end(number: int, frame: FrameType | None) -> None:
    if _once.acquire(blocking=False):
        try:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"byzdist: interrupted.\n")
        except (OSError, ValueError):  # standard error is closed
            pass
        os._exit(1)
