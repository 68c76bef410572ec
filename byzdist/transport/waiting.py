"""Says what a process waits for, once that takes longer than a moment."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)
_FIRST, _AGAIN = 3.0, 30.0  # seconds


class Waiting:
    """A context manager that logs what is awaited within, after some seconds and every half minute; it starts a thread.

    Args:
        what: is asked for it each time, and says "" where there is nothing to say.
        most: the longest wait, in seconds.
    """

    def __init__(self, what: Callable[[], str], most: float, first: float = _FIRST, again: float = _AGAIN) -> None:
        self._what, self._most, self._first, self._again = what, most, first, again
        self._over = threading.Event()

    def __enter__(self) -> "Waiting":
        self._since = time.monotonic()
        threading.Thread(target=self._tell, name="waiting", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()

    def _tell(self) -> None:
        pause = self._first
        while not self._over.wait(pause):
            if what := self._what():
                passed = time.monotonic() - self._since
                log.warning("waiting for %s: %.0f s so far, %.0f s at most", what, passed, self._most)
            pause = self._again
