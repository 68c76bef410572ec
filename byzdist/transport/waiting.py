"""Says what a process waits for, once the wait takes longer than a moment."""

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
        describe: returns what is awaited, at each call; "" if there is nothing to say.
        max_wait: the longest wait, in seconds.
        first, again: seconds until the first message, and between two.
    """

    def __init__(
        self, describe: Callable[[], str], max_wait: float, first: float = _FIRST, again: float = _AGAIN
    ) -> None:
        self._describe, self._max_wait, self._first, self._again = describe, max_wait, first, again
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
            if what := self._describe():
                passed = time.monotonic() - self._since
                log.warning("waiting for %s: %.0f s so far, %.0f s at most", what, passed, self._max_wait)
            pause = self._again
