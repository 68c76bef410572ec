"""File descriptors that are reserved for saving, in case all others are used up."""

import resource
import threading

SPARE = 32  # descriptors for saving alone: the process's usual limit is this much below the system's


class _Spare:
    """A context in which this process may open a few more files than usual."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._limits = 0, 0

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                more = soft + SPARE if hard == resource.RLIM_INFINITY else min(soft + SPARE, hard)
                if soft != resource.RLIM_INFINITY:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


spare_descriptors = _Spare()
