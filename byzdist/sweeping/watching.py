"""What a user sees of a sweep: a line for each run that ends, and how long the rest will take."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from byzdist.host.files import open_plain, parse_json
from byzdist.storage.folder import METRICS
from byzdist.sweeping.checking import Planned
from byzdist.sweeping.folder import State

_REFRESH, _PLAIN_EVERY = 0.5, 10.0  # seconds
_TAIL = 1 << 16  # bytes: more than most metrics lines have


class Watch:
    """Shows a sweep; a context manager.

    Args:
        folder: the sweep's.
        runs: all of its runs.
        waiting: those that are still to be trained.
    """

    def __init__(
        self,
        folder: Path,
        runs: Sequence[Planned],
        waiting: Sequence[Planned],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._clock, self._all = folder, clock, len(runs)
        self._rounds = {run.name: run.config.rounds for run in waiting}
        self._before = {run.name: rounds_done(folder / run.name) for run in waiting}
        self._ended = 0.0  # rounds of the runs that have ended in this process
        self._count = len(runs) - len(waiting)
        self._total = sum(self._rounds.values()) - sum(self._before.values())
        self._started = self._shown = clock()
        self._live = sys.stdout.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
            console=Console(),
            disable=not self._live,
        )
        self._task = self._bar.add_task("sweep", total=max(1.0, self._total), state="")

    def __enter__(self) -> "Watch":
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def look(self, working: Sequence[str]) -> None:
        """Show how far the runs of these names, which are being trained, have come, if the time for that has come."""
        now = self._clock()
        if now < self._shown + (_REFRESH if self._live else _PLAIN_EVERY):
            return
        self._shown = now
        done = self._ended + sum(rounds_done(self._folder / name) - self._before[name] for name in working)
        state = f"{self._count}/{self._all} runs  {self._left(done)}"
        if self._live:
            self._bar.update(self._task, completed=done, state=state)
        else:
            print(state, flush=True)

    def ended(self, run: Planned, state: State) -> None:
        """Print how a run has ended."""
        self._count += 1
        self._ended += self._rounds[run.name] - self._before[run.name]
        told = f": {state.reason}" if state.reason and state.status != "finished" else _quality(state.summary)
        line = f"[{self._count}/{self._all}] {run.name}  {state.status}{told}"
        if self._live:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(f"{line}  {self._left(self._ended)}", flush=True)
        self._shown = min(self._shown, self._clock() - _REFRESH)

    def _left(self, done: float) -> str:
        """Return how long the rest takes, if it goes on as until now."""
        if done <= 0:
            return ""
        seconds = (self._clock() - self._started) / done * max(0.0, self._total - done)
        return f"left {seconds:.0f} s" if seconds < 120 else f"left {seconds / 60:.0f} min"


def _quality(summary: Mapping[str, object]) -> str:
    """Return what was measured last, and how long the run took; the summary has its totals after what was measured."""
    measured = takewhile(lambda item: item[0] not in ("claimed", "rounds"), summary.items())
    values = [*measured, ("seconds", summary.get("seconds"))]
    return "".join(f"  {key} {value:.4g}" for key, value in values if isinstance(value, int | float))


def rounds_done(folder: Path) -> int:
    """Return how many rounds the run in a folder has done, by the last complete line of its metrics."""
    try:
        with open(open_plain(folder / METRICS), "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            *_, last, _ = [b"", *file.read().split(b"\n")]
        return int(parse_json(last)["round"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
