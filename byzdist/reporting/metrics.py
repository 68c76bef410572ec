"""What a run leaves behind: metrics.jsonl with a line for each round, and summary.json."""

import logging
import os
import shutil
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from byzdist.errors import RunError
from byzdist.host.descriptors import spare_descriptors
from byzdist.host.files import open_plain, write_text
from byzdist.problem.evaluation import measured_of
from byzdist.problem.task import Better
from byzdist.problem.tasks.classification import CLASSIFICATION
from byzdist.reporting.record import RoundRecord
from byzdist.storage.folder import METRICS, SUMMARY

log = logging.getLogger(__name__)
_LINE = orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE  # NaN and infinity, which JSON lacks, become null
_BLOCK = 1 << 16  # bytes


class Metrics:
    """Writes metrics.jsonl, a line with each round, and keeps the totals for summary.json.

    Lines that a full disk does not take are kept, and written with the next line.

    Args:
        folder: where the files go.
        state: what `state` returned, to continue from: lines of later rounds are removed.
        better: what can be measured of the run's models, and in which direction it is better.

    Attributes:
        last: the last measured values, by name.
    """

    def __init__(
        self,
        folder: Path,
        state: Mapping[str, Any] | None = None,
        better: Mapping[str, Better] = MappingProxyType(measured_of(CLASSIFICATION)),
    ) -> None:
        self.better = better
        self._folder = folder
        self._file = _open(folder)
        self._size = 0
        self._unwritten = b""
        self._complained = False
        self.last: dict[str, float] = {}
        self.claimed: dict[str, dict[str, float]] = {}  # the last ones
        self.first_loss: float | None = None
        self.totals = dict.fromkeys(
            ("rounds", "bytes_up", "bytes_down", "missing", "byzantine_majorities", "untrusted", "called"), 0
        )
        self._started = time.monotonic()
        if state is not None:
            self._size, self.last, self.totals = state["size"], state["last"], self.totals | state["totals"]
            self._started -= state["seconds"]
            self.claimed = state.get("claimed", {})  # which earlier versions did not keep
            self.first_loss = state.get("first_loss")  # which earlier versions did not keep
        there = self._file.seek(0, os.SEEK_END)
        if there < self._size:
            log.warning("metrics.jsonl is shorter than it was when the checkpoint was taken: lines are missing.")
            self._size = _end_of_last_line(self._file)  # the last line may be cut
        self._file.truncate(self._size)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the metrics, as JSON; all lines up to now are counted, and written if possible."""
        return {
            "size": self._size,
            "last": self.last.copy(),
            "claimed": self.claimed,
            "first_loss": self.first_loss,
            "totals": self.totals.copy(),
            "seconds": time.monotonic() - self._started,
        }

    def sync(self) -> None:
        """Wait until all lines that `state` counted are on the disk; the thread that writes checkpoints may call it.

        Raises:
            OSError: if the system has not taken them all.
        """
        if self._unwritten:
            raise OSError(None, "metrics.jsonl lacks lines that could not be written")
        os.fsync(self._file.fileno())

    def add(self, record: RoundRecord) -> None:
        """Write a round's line, and add the round to the totals."""
        text = orjson.dumps(record.line(), option=_LINE)
        self._size += len(text)
        self._write(text)
        totals = self.totals
        totals["rounds"] += 1
        totals["bytes_up"] += record.bytes_up
        totals["bytes_down"] += record.bytes_down
        totals["missing"] += len(record.missing)
        totals["byzantine_majorities"] += record.has_majority
        totals["untrusted"] += record.is_untrusted
        totals["called"] += record.called is not None
        if record.evaluation:
            self.last |= {key: record.evaluation[key] for key in self.better if key in record.evaluation}
            if self.first_loss is None:
                self.first_loss = record.evaluation.get("loss")
        self.claimed = record.claimed or self.claimed

    def _write(self, text: bytes) -> None:
        text = self._unwritten + text
        try:
            written = self._file.write(text)
        except OSError as error:
            written = 0
            if not self._complained:  # a full disk may take only a part of a line
                log.error("metrics.jsonl cannot be written: %s. Training goes on; the lines are kept.", error.strerror)
            self._complained = True
        self._unwritten = text[written:]
        self._complained &= bool(self._unwritten)

    def is_removed(self) -> bool:
        """Return whether metrics.jsonl was removed, with or without its folder; writing it then succeeds, but in vain."""
        return os.fstat(self._file.fileno()).st_nlink == 0

    def continue_in(self, folder: Path) -> None:
        """Continue in another folder, or in one that was removed and made again, with all lines up to now.

        Raises:
            OSError: if they cannot be written there.
        """
        if not _is_there(folder, self._file):
            fresh = _open(folder)
            self._file.seek(0)
            shutil.copyfileobj(self._file, fresh)  # the system keeps a removed file while it is open
            old, self._file = self._file, fresh  # before closing the old one: another thread may `sync`
            old.close()
        self._folder = folder

    def close(self, status: str, reason: str = "") -> dict[str, Any]:
        """Write what is left and summary.json; return the summary.

        Args:
            status: how the run ended.
            reason: why, if there is more to say.

        Raises:
            RunError: if they cannot be written.
        """
        seconds = time.monotonic() - self._started
        summary = {
            "status": status,
            **({"reason": reason} if reason else {}),
            **self.last,
            **({"claimed": self.claimed} if self.claimed else {}),
            **self.totals,
            "seconds": seconds,
            "rounds_per_second": self.totals["rounds"] / seconds,
        }
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
            self._file.close()
            text = orjson.dumps(summary, option=_LINE | orjson.OPT_INDENT_2).decode()
            with spare_descriptors:
                write_text(self._folder / SUMMARY, text)
        except OSError as error:
            raise RunError(f"{str(self._folder)!r}: the metrics cannot be written: {error.strerror}.") from None
        return summary


def _open(folder: Path) -> FileIO:
    return FileIO(open_plain(folder / METRICS, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+")


def _is_there(folder: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(os.lstat(folder / METRICS), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _end_of_last_line(file: FileIO) -> int:
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - _BLOCK)
        found = os.pread(file.fileno(), position - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0
