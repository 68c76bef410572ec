"""What a user sees while a run trains: a live line on a terminal, elsewhere a plain line now and then."""

import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from byzdist.config.schema import Config
from byzdist.host import speech
from byzdist.problem.evaluation import NOTES, OF_ANY_TASK
from byzdist.problem.task import Better
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord
from byzdist.words import spelled_bytes

_REFRESH, _PLAIN_EVERY = 0.1, 5.0  # seconds


def _quality(metrics: Metrics) -> str:
    last = metrics.last
    names = ["gap" if "gap" in last else "loss", *_own(metrics.better)]
    return "  ".join(f"{name} {last[name]:.4g}" for name in names if last.get(name) is not None)


def _own(better: Mapping[str, Better]) -> list[str]:
    """Return the names of the task's metrics."""
    return [name for name in better if name not in OF_ANY_TASK]


def _claims(claimed: Mapping[str, Mapping[str, float]]) -> str:
    return "  ".join(f"{name} {found['median']:.4g} (claimed)" for name, found in claimed.items())


def _out_of_turn(summary: dict[str, Any]) -> str:
    """Return how many full rounds were not trusted, and how many were called out of turn, as text; "" if there were none."""
    untrusted, called = summary.get("untrusted", 0), summary.get("called", 0)
    return f"  {untrusted} full rounds not trusted, {called} called out of turn\n" if untrusted or called else ""


class Progress:
    """Shows rounds as they pass; a context manager.

    Args:
        shows: whether anything is shown.
        may_be_widget: whether this is a notebook kernel's own process; it then shows a widget if ipywidgets is installed.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        *,
        shows: bool = True,
        may_be_widget: bool = False,
    ) -> None:
        self._rounds, self._folder, self._shows, self._clock = config.rounds, folder, shows, clock
        speech.wait_for_nobody()
        self._console = Console()
        widget = may_be_widget and self._console.is_jupyter and find_spec("ipywidgets") is not None
        self._live = shows and (sys.stdout.isatty() or widget)
        self._next = 0.0
        self._first: tuple[int, float] | None = None  # the first round that was shown, and the time then
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("round {task.completed}/{task.total}  {task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._live,
            refresh_per_second=1 / _REFRESH,
        )
        self._task = self._bar.add_task(config.name, total=config.rounds, state="")

    def __enter__(self) -> "Progress":
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def show(self, record: RoundRecord, metrics: Metrics) -> None:
        """Show a round."""
        now = self._clock()
        if now < self._next or not self._shows:
            return
        self._next = now + (_REFRESH if self._live else _PLAIN_EVERY)
        self._first = self._first or (record.round, now)
        totals = metrics.totals
        quality = _quality(metrics) or _claims(metrics.claimed)
        state = f"{quality}  up {spelled_bytes(totals['bytes_up'])}  down {spelled_bytes(totals['bytes_down'])}"
        if totals["missing"]:
            state += f"  missing {totals['missing']}"
        if totals["untrusted"]:
            state += f"  untrusted {totals['untrusted']}"
        if self._live:
            self._bar.update(self._task, completed=record.round, state=state)
            return
        rounds = record.round - self._first[0]
        if rounds:
            state += f"  left {(now - self._first[1]) / rounds * (self._rounds - record.round):.0f} s"
        print(f"round {record.round}/{self._rounds}  {state}", flush=True)

    def finish(self, summary: dict[str, Any], better: Mapping[str, Better]) -> None:
        """Print how the run ended, how good its model is (``better``: in which direction), and where it is."""
        self._bar.update(self._task, completed=self._rounds if summary["status"] == "finished" else None)
        self._bar.stop()
        if not self._shows:
            return
        notes = {"loss": "", "gap": ""} | {name: NOTES[better[name]] for name in _own(better)}
        quality = "  ".join(f"{k} {summary[k]:.4g}{note}" for k, note in notes.items() if summary.get(k) is not None)
        print(
            f"{summary['status']} after {summary['rounds']} rounds in {summary['seconds']:.1f} s "
            f"({summary['rounds_per_second']:.0f} rounds/s)\n"
            f"  {quality or _claims(summary.get('claimed', {}))}\n"
            f"  up {spelled_bytes(summary['bytes_up'])}, down {spelled_bytes(summary['bytes_down'])}, "
            f"{summary['missing']} replies missing, {summary['byzantine_majorities']} rounds with a Byzantine majority\n"
            f"{_out_of_turn(summary)}"
            f"  {self._folder}",
            flush=True,
        )
