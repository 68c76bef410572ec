"""Trains the runs of a sweep that have not ended yet, and keeps the index of all."""

import os
from collections.abc import Sequence
from pathlib import Path

from byzdist.errors import ConfigError
from byzdist.host.signals import Signals
from byzdist.host.speech import say
from byzdist.sweeping.axes import Sweep
from byzdist.sweeping.checking import Planned, check_runs, transports
from byzdist.sweeping.folder import State, begun, reasons, state_of, write_index
from byzdist.sweeping.pool import train_side_by_side
from byzdist.sweeping.ranks import check_forks
from byzdist.sweeping.series import train_in_turn
from byzdist.sweeping.watching import Watch

_ENDED = ("finished", "diverged")  # a run that has diverged would do so again


class _Index:
    """Knows how each run has ended, and writes it down."""

    def __init__(self, folder: Path, runs: Sequence[Planned]) -> None:
        self._folder, self._runs = folder, runs
        why = reasons(folder)
        self._states = {run.name: _with_reason(state_of(folder / run.name), why.get(run.name, "")) for run in runs}

    def waiting(self) -> list[Planned]:
        """Return the runs that are still to be trained."""
        return [run for run in self._runs if self._states[run.name].status not in _ENDED]

    def note(self, run: Planned, reason: str) -> State:
        """Note how a run has ended; ``reason``: why its process failed, if it could not write that itself."""
        state = self._states[run.name] = _with_reason(state_of(self._folder / run.name), reason)
        self.write()
        return state

    def write(self) -> None:
        """Write runs.csv."""
        write_index(self._folder, [self._row(run, self._states[run.name]) for run in self._runs])

    def _row(self, run: Planned, state: State) -> dict[str, object]:
        told = {"folder": run.name, "status": state.status, "reason": state.reason}
        return told | {key: state.summary.get(key) for key in ("rounds", "seconds")} | dict(run.settings)

    def summary(self) -> str:
        """Return how many runs have which status."""
        statuses = [state.status for state in self._states.values()]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
        return f"{len(statuses)} runs: {counts}"

    @property
    def is_complete(self) -> bool:
        """Whether every run has finished."""
        return all(state.status == "finished" for state in self._states.values())


def _with_reason(state: State, reason: str) -> State:
    if not reason or state.status in _ENDED:
        return state
    return State("failed", state.reason or reason, state.summary)


def conduct(sweep: Sweep, folder: Path, jobs: int | None, workers: int | None) -> int:
    """Train all runs of a sweep that have not ended yet; return the exit code: 0 if all have finished, else 1.

    Args:
        sweep: the sweep.
        folder: a new one, or the folder of the same sweep, which goes on.
        jobs: how many runs of transport ``local`` train at a time; None: one for each core.
        workers: how many worker processes the other runs have; None: 4, or one for each client.

    Raises:
        ConfigError: before anything is started.
    """
    runs = check_runs(sweep, folder)
    _check_processes(transports(runs), jobs, workers)
    with begun(folder, sweep, [run.name for run in runs]):
        return _train(runs, folder, jobs, workers)


def _train(runs: Sequence[Planned], folder: Path, jobs: int | None, workers: int | None) -> int:
    index = _Index(folder, runs)
    index.write()
    waiting = index.waiting()
    say(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done before; {folder}")
    with Signals() as signals, Watch(folder, runs, waiting) as watch:

        def ended(run: Planned, reason: str) -> None:
            state = index.note(run, reason)
            if not signals.came or state.status in _ENDED:
                watch.ended(run, state)

        for name, group in transports(waiting).items():
            if signals.came:
                break
            if name == "local":
                train_side_by_side(group, folder, jobs or _cores(group), signals, watch.look, ended)
            else:
                train_in_turn(group, folder, workers, signals, watch.look, ended)
    if signals.came:
        say("interrupted; the same command goes on where this one has ended.")
    say(f"{index.summary()}; {folder}")
    return 0 if index.is_complete else 1


def _check_processes(groups: dict[str, list[Planned]], jobs: int | None, workers: int | None) -> None:
    if jobs is not None and "local" not in groups:
        raise ConfigError(f"--jobs: {jobs} runs at a time, but only runs with transport.name=local share the cores.")
    others = [run for name, group in groups.items() if name != "local" for run in group]
    if workers is not None and not others:
        raise ConfigError(f"--workers: {workers} processes, but with transport.name=local there is one a run.")
    for run in others:
        if workers is not None and workers > run.config.clients.count:
            raise ConfigError(
                f"--workers: {workers} processes for the {run.config.clients.count} clients of run {run.name}; at most one a client."
            )
    check_forks(secret=bool(others))


def _cores(runs: Sequence[Planned]) -> int:
    """Return how many runs the cores of this process can take."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(run.config.threads for run in runs))
