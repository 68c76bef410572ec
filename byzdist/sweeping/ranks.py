"""Forks of the sweep's process that train, and their last words if they end badly."""

import os
import sys
import tempfile

from byzdist.errors import ConfigError
from byzdist.host import interrupt, speech
from byzdist.transport.keys import VARIABLES

_TAIL = 2000  # bytes of output that are looked at for a reason


class Output:
    """A file without a name, in which forks write what they would have shown."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("a+b")

    def take(self) -> None:
        """Write standard output and standard error of this process there from now on."""
        for number in (1, 2):
            os.dup2(self._file.fileno(), number)
        speech.protect()

    def last_line(self) -> str:
        """Return the last line of it, which says why a process has ended; "" if there is none."""
        size = os.fstat(self._file.fileno()).st_size
        lines = os.pread(self._file.fileno(), _TAIL, max(0, size - _TAIL)).decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("byzdist: ") if lines else ""

    def write(self, line: str) -> None:
        """Append a line."""
        os.write(self._file.fileno(), f"{' '.join(line.split())}\n".encode())

    def lines(self) -> dict[str, str]:
        """Return the lines by their first word."""
        text = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, 0).decode(errors="replace")
        return {first: rest for first, _, rest in (line.partition(" ") for line in text.splitlines())}

    def close(self) -> None:
        """Delete it."""
        self._file.close()


def say_reason(error: Exception) -> None:
    """Write why this process ends, as the last line of its output."""
    print(f"byzdist: {error}", file=sys.stderr, flush=True)


def check_forks(secret: bool) -> None:
    """Refuse to train in forks of this process if they could not work, or would show a secret.

    Args:
        secret: whether the runs have one.

    Raises:
        ConfigError: naming the reason.
    """
    if given := [name for name in VARIABLES if secret and name in os.environ]:
        raise ConfigError(
            f"{given[0]}: the workers would be forks of this process, whose environment shows it. Remove it: a sweep makes a secret."
        )
    if threads := interrupt.other_threads():
        raise ConfigError(
            f"a module of yours has started threads ({', '.join(threads)}), which forks of this process would lack. Start them in "
            "the function that needs them."
        )
