"""What a run does when its folder is removed or renamed while it trains: it says so, and saves what it has.

A folder that was removed is made again with all that the run holds, and the run goes on. That includes the lines of its metrics,
because the system keeps an open file. A folder that was renamed is used under its new name. If another folder has taken the name,
a new one is made beside it. In both cases the run then ends, because its workers and whoever started it know the old name.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from byzdist.errors import RunError
from byzdist.host.files import read_json
from byzdist.host.locks import LockTaken
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord
from byzdist.runtime.stopping import Stop
from byzdist.storage.folder import RUN, RunFolder, checkpoints, is_empty, new_folder
from byzdist.storage.saving import ServerSaver

log = logging.getLogger(__name__)
_LOOK_EVERY = 1.0  # seconds
_OPEN_FOLDERS = Path("/proc/self/fd")  # Linux: under which name an open folder is now


class FolderWatch:
    """Looks after the run's folder from round to round.

    Args:
        run: the folder.
        describe: writes again what the folder says of the run besides metrics and checkpoints.
        stop: ends the run after the round in progress.
        saver: is told of another folder.
        last: the last round, after which the folder is looked at in any case.
    """

    def __init__(self, run: RunFolder, describe: Callable[[], None], stop: Stop, saver: ServerSaver, last: int) -> None:
        self._run, self._describe, self._stop = run, describe, stop
        self._saver, self._last = saver, last
        self._handle = _open(run.path)
        self._old_name: Path | None = None  # of a folder that was renamed
        self._next = 0.0

    def look(self, record: RoundRecord, metrics: Metrics) -> None:
        """Check after a round, at most once a second, that the folder and its metrics exist; if not, save what the run has.

        Raises:
            RunError: if nothing can be saved there.
        """
        now = time.monotonic()
        if self._old_name is not None or (now < self._next and record.round < self._last):
            return
        self._next = now + _LOOK_EVERY
        path, is_there = self._run.path, self._is_there()
        if is_there and not metrics.is_removed():
            return
        try:
            self._run.path = (None if is_there else self._new_name()) or self._make_again(path, is_there)
            metrics.continue_in(self._run.path)
            if self._run.path == path:
                log.error(
                    "the run's folder %s was removed. It is made again with all that this process holds of it.", path
                )
                self._describe()
                os.close(self._handle)
                self._handle = _open(path)
            else:
                log.error("the run's folder %s is now %s. The run ends after this round.", path, self._run.path)
                self._old_name = path
                self._describe()
                self._stop.tell()
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"the run's folder {str(path)!r} was removed and cannot be made again: {reason}.") from None
        self._saver.continue_in(self._run.checkpoints)

    def _make_again(self, path: Path, is_there: bool) -> Path:
        """Return the folder, made and locked again, or one beside it if somebody else has taken its name."""
        path.mkdir(parents=True, exist_ok=True)
        with suppress(LockTaken):
            if is_there or is_empty(path):
                self._run.lock.acquire(0)
                return path
        return new_folder(path)

    def finish(self, round_: int) -> None:
        """Finish a run whose results are saved.

        Raises:
            RunError: if its folder has another name now; says what was saved, and where.
        """
        os.close(self._handle)
        if self._old_name is not None:
            self._take_along(self._old_name)
            raise RunError(
                f"the run's folder {str(self._old_name)!r} was taken away while the run went on. State, model and metrics after "
                f"round {round_} are in {str(self._run.path)!r}; go on with --resume --out {str(self._run.path)!r}."
            )

    def _is_there(self) -> bool:
        mine = os.fstat(self._handle)
        try:
            there = os.stat(self._run.path)
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return True
            # Some file systems number their files anew.
            return bool(read_json(self._run.path / RUN)["run"] == self._run.name)
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
            return False
        except OSError:  # from a slow network, say, which proves nothing
            return True

    def _new_name(self) -> Path | None:
        """Return where the folder is now; None if it is gone, or if the system does not tell."""
        with suppress(OSError):
            name = Path(os.readlink(_OPEN_FOLDERS / str(self._handle)))
            if os.path.samestat(os.stat(name), os.fstat(self._handle)):
                return name
        return None

    def _take_along(self, old: Path) -> None:
        """Move what this host's workers saved under the folder's old name to where the checkpoint is."""
        with suppress(OSError):
            for file in checkpoints(old).glob("round-*.worker-*"):
                os.replace(file, self._run.checkpoints / file.name)
            checkpoints(old).rmdir()
            old.rmdir()


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
