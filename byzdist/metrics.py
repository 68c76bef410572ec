"""What a run leaves behind: a line a round, and a summary."""

import json
import math
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]
EVALUATED = ("loss", "gap", "grad_norm", "accuracy")


def _plain(value: Any) -> Any:
    """Make a value JSON: numbers that JSON has no word for become null."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Metrics:
    """Writes metrics.jsonl and keeps the totals for summary.json.

    A round's line is written when the next round is under way, so that writing costs no time between two rounds.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / "metrics.jsonl").open("a", buffering=1)
        self._pending: Line | None = None
        self.last: Line = {}
        self.totals = {"rounds": 0, "bytes_up": 0, "bytes_down": 0, "missing": 0, "byzantine_majorities": 0}
        self._started = time.monotonic()

    def add(self, line: Line) -> None:
        """Take a round's line."""
        self.flush()
        self._pending = line
        totals = self.totals
        totals["rounds"] += 1
        totals["bytes_up"] += line["bytes_up"]
        totals["bytes_down"] += line["bytes_down"]
        totals["missing"] += len(line["missing"])
        totals["byzantine_majorities"] += 2 * line["byzantine"] > len(line["cohort"])
        for key in EVALUATED:
            if key in line:
                self.last[key] = line[key]

    def flush(self) -> None:
        """Write the line that is waiting."""
        if self._pending is not None:
            self._file.write(json.dumps(_plain(self._pending)) + "\n")
            self._pending = None

    def close(self, status: str) -> Line:
        """Write the last line and summary.json; return the summary."""
        self.flush()
        self._file.close()
        seconds = time.monotonic() - self._started
        summary = {
            "status": status,
            **self.last,
            **self.totals,
            "seconds": seconds,
            "rounds_per_second": self.totals["rounds"] / seconds,
        }
        (self._folder / "summary.json").write_text(json.dumps(_plain(summary), indent=2) + "\n")
        return summary
