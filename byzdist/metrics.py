"""What a run leaves behind: a line a round, and a summary."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from byzdist.descriptors import spare_descriptors
from byzdist.errors import RunError
from byzdist.files import write_text

log = logging.getLogger(__name__)
Line = dict[str, Any]
EVALUATED = ("loss", "gap", "grad_norm", "accuracy")
_LINE = orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE  # numbers that JSON has no word for become null
_WHILE = 0.1  # seconds


class Metrics:
    """Writes metrics.jsonl and keeps the totals for summary.json.

    Lines are written by a thread, ten times a second, so that no round waits for the system. What a full disk does not take is
    kept, and tried again with the next lines.

    Args:
        folder: where the files go.
        state: as `state` returned it, to go on from there: lines of later rounds are removed.
    """

    def __init__(self, folder: Path, state: Line | None = None) -> None:
        self._folder = folder
        self._file = (folder / "metrics.jsonl").open("ab", buffering=0)
        self._size = 0
        self._pending: list[Line] = []
        self._lock = threading.Lock()  # of what is not yet written
        self._writer: threading.Thread | None = None  # begun with the first line: a process that will fork has none
        self._over = threading.Event()
        self._unwritten = b""
        self._complained = False
        self.last: Line = {}
        self.totals = {"rounds": 0, "bytes_up": 0, "bytes_down": 0, "missing": 0, "byzantine_majorities": 0}
        self._started = time.monotonic()
        if state is not None:
            self._size, self.last, self.totals = state["size"], state["last"], state["totals"]
            self._started -= state["seconds"]
        there = self._file.seek(0, os.SEEK_END)
        if there < self._size:
            log.warning("metrics.jsonl is shorter than it was when the checkpoint was taken: lines are missing.")
            self._size = (folder / "metrics.jsonl").read_bytes().rfind(b"\n") + 1  # the last line may be cut
        self._file.truncate(self._size)

    def state(self) -> Line:
        """Return what a checkpoint keeps of the metrics, as JSON; all lines up to now are counted, and written where possible."""
        self.flush()
        seconds = time.monotonic() - self._started
        return {"size": self._size, "last": self.last.copy(), "totals": self.totals.copy(), "seconds": seconds}

    def sync(self) -> None:
        """Wait until all lines that `state` counted are on the disk.

        Raises:
            OSError: if the system has not taken them all.
        """
        with self._lock:
            if self._unwritten:
                raise OSError(None, "metrics.jsonl lacks lines that could not be written")
        os.fsync(self._file.fileno())

    def add(self, line: Line) -> None:
        """Take a round's line."""
        with self._lock:
            self._pending.append(line)
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_now_and_then, name="metrics", daemon=True)
            self._writer.start()
        totals = self.totals
        totals["rounds"] += 1
        totals["bytes_up"] += line["bytes_up"]
        totals["bytes_down"] += line["bytes_down"]
        totals["missing"] += len(line["missing"])
        totals["byzantine_majorities"] += 2 * line["byzantine"] > len(line["cohort"])
        for key in EVALUATED:
            if key in line:
                self.last[key] = line[key]

    def _write_now_and_then(self) -> None:
        while not self._over.wait(_WHILE):
            self.flush()

    def flush(self) -> None:
        """Write the lines that are waiting."""
        with self._lock:
            if self._pending:
                text = b"".join(orjson.dumps(line, option=_LINE) for line in self._pending)
                self._pending.clear()
                self._size += len(text)
                self._write(text)

    def _write(self, text: bytes) -> None:
        text = self._unwritten + text
        try:
            written = self._file.write(text)
        except OSError as error:
            written = 0
            if not self._complained:  # a full disk may take a part of a line first
                log.error("metrics.jsonl cannot be written: %s. Training goes on; the lines are kept.", error.strerror)
            self._complained = True
        self._unwritten = text[written:]
        self._complained &= bool(self._unwritten)

    def close(self, status: str) -> Line:
        """Write the last line and summary.json; return the summary.

        Raises:
            RunError: if the disk does not take them.
        """
        self._over.set()
        if self._writer is not None:
            self._writer.join()
        self.flush()
        seconds = time.monotonic() - self._started
        summary = {
            "status": status,
            **self.last,
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
                write_text(self._folder / "summary.json", text)
        except OSError as error:
            raise RunError(f"{str(self._folder)!r}: the metrics cannot be written: {error.strerror}.") from None
        return summary
