"""Standard output and standard error that cannot end a run: they go quiet when they fail. This module imports nothing heavy.

If a terminal is closed, a reader goes away, an encoding lacks a letter or a descriptor was never open, the output is dropped.
The run's folder has everything.
"""

import os
import select
import signal
import sys
from contextlib import suppress
from typing import Any, TextIO


class Quiet:
    """A wrapper of a stream that raises nothing when writing fails.

    Attributes:
        waits: whether to wait for a slow reader or a stopped terminal; otherwise lines are dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.waits = stream, True

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        if self.waits or self._is_ready():
            with self._quietly():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        if self.waits or self._is_ready():
            with self._quietly():
                self._stream.flush()

    def _is_ready(self) -> bool:
        try:
            return bool(select.select([], [self._stream.fileno()], [], 0)[1])
        except (OSError, ValueError):  # it has no descriptor, or one that cannot be polled
            return True

    def _quietly(self) -> "_Quietly":
        return _Quietly(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Quietly:
    """Silences a stream that fails: the rest of its buffer is dropped, now or when the process ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, OSError | ValueError):
            return False
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        return True


def protect() -> None:
    """Wrap this process's standard streams in `Quiet`."""
    for number in (0, 1, 2):  # else the next file to be opened would become standard output
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")
        if not isinstance(stream, Quiet):
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, Quiet(stream))
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else `stty tostop` stops a background process that writes


def wait_for_nobody() -> None:
    """From now on drop what a slow reader or a stopped terminal does not take at once, so that no round waits for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Quiet):
            stream.waits = False


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)
