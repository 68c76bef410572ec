"""The signals that tell this process to end."""

import signal
import threading
from types import FrameType
from typing import Any

_NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Signals:
    """Notes the signals that tell this process to end, instead of ending it; a context manager, which restores the handlers.

    A signal that this process ignores, such as SIGHUP under nohup, stays ignored. Only the main thread can handle signals; in
    another thread this does nothing.

    Attributes:
        came: their numbers, in the order in which they came.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came.append(number)
