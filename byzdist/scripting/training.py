"""`byzdist.train`: an experiment from a script, a notebook's cell, or a script under torchrun."""

import itertools
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from byzdist.errors import ConfigError
from byzdist.given import giving
from byzdist.registry import Spec
from byzdist.reporting.record import RoundRecord
from byzdist.runtime.alone import run_alone
from byzdist.runtime.caller import Caller
from byzdist.runtime.command import RunCommand
from byzdist.runtime.rank import run_rank
from byzdist.scripting.forking import train_forked
from byzdist.scripting.keywords import tree_of
from byzdist.scripting.leaving import undisturbed
from byzdist.scripting.naming import Objects
from byzdist.scripting.results import Run
from byzdist.transport.store import SERIES

_calls = itertools.count()
OnRound = Callable[[RoundRecord], bool | None]


def train(
    model: Any = None,
    data: Any = None,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    workers: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    max_restarts: int = 0,
    on_round: OnRound | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run | None:
    """Train, and return the run; the rest of this process's state is restored afterwards.

    Args:
        model: a module, whose weights are x^0 and do not change; a function or class that makes one, called with no arguments or with
            (feature_shape, classes); or a name or mapping as in YAML. If it is a YAML file, it is taken as ``config``.
        data: (X, y), ((X, y), (X_test, y_test)), a Dataset, a function that returns one of these, or a name or mapping as in YAML. A
            function of a client's id returns that client's private data, and is called only in its worker.
        config: a YAML file, or a mapping with the content of one; all other arguments override it.
        workers: 0: everything in this process. N: a server and N workers, forks of this process. By default 0, unless
            ``transport.name`` is given and not local. Under torchrun (RANK is set) it is ignored: this process is one rank.
        out: the run's folder, by default a new one ``runs/NAME-DATE-TIME``.
        resume: continue the run in ``out`` from its last checkpoint.
        max_restarts: how often all processes are started again after one fails.
        on_round: called in this process (under torchrun: in rank 0) with a copy of each round's record. If it returns True, the run
            ends and can be resumed. If it raises, the run ends in the same way, and the exception is raised here.
        progress: whether to show progress.
        settings: ``rounds``, ``clients``, ``byzantine``, ``method``, ``rule``, ``pre``, ``attack``, ``loss`` or ``task``, ``validation``,
            ``seed``, and every other key of a configuration, with sections as mappings or with dotted keys: ``**{"method.clip": 2.0}``.

    Returns:
        The run; None on a worker under torchrun.

    Raises:
        ConfigError: for a mistake, naming the key, before anything starts.
        RunError: if the run fails or diverges.
        KeyboardInterrupt: after Ctrl-C, once the round in progress and a checkpoint are done.

    Example:
        >>> import byzdist
        >>> run = byzdist.train(
        ...     "logistic_regression", "digits", rounds=20, clients=5, byzantine=1, rule="coordinate_median", attack="ipm",
        ...     method=byzdist.byz_vr_marina_pp(step_size=0.1, cohort=3), progress=False,
        ... )  # doctest: +SKIP
        >>> run.summary["status"]  # doctest: +SKIP
        'finished'
    """
    if config is None and isinstance(model, str | os.PathLike) and Path(model).suffix in (".yaml", ".yml"):
        model, config = None, model
    if isinstance(workers, bool) or not isinstance(workers, int | None) or (workers or 0) < 0:
        raise ConfigError(f"workers: {workers!r} is not a number of processes; give 0 for a run in this process.")
    if not isinstance(out, str | os.PathLike | None):
        raise ConfigError(f"out: {out!r} is not the path of a folder.")
    if not (on_round is None or callable(on_round)):
        raise ConfigError(f"on_round: {on_round!r} is not a function of a round's record.")
    objects, hearing = Objects(), _Hearing(on_round)
    with undisturbed():
        tree = tree_of(config, {"model": model, "data": data, **settings}, objects)
        is_rank = "RANK" in os.environ
        if alone := not is_rank and _is_alone(workers, _transport(tree)):
            tree["transport"] = {**_section(tree), "name": "local"}
        command = RunCommand("-", out=None if out is None else Path(out), resume=resume, tree=tree)
        hears = hearing.hear if on_round is not None else None
        signals: list[int] = []
        folder: Path | None
        with giving(objects.by_name):
            if alone or is_rank:
                os.environ[SERIES] = str(next(_calls))  # the same on all ranks of one script
                run = run_alone if alone else run_rank
                _, folder, number = run(command, Caller(hears, progress, lives_on=True))
                signals = [] if number is None else [number]
            else:
                folder, signals = train_forked(command, workers, max_restarts, hears, progress)
    if hearing.error is not None:
        raise hearing.error
    for number in signals[:1]:
        signal.raise_signal(number)  # for the caller's own handler; by default Ctrl-C is a KeyboardInterrupt
    if folder is None:
        return None
    model_name = Spec.of(tree["model"]).name
    # only the model, so that the run keeps no data in memory
    return Run(folder, {name: made for name, made in objects.by_name.items() if name == model_name})


def _is_alone(workers: int | None, transport: Any) -> bool:
    """Return whether the whole run takes place in this process."""
    if workers and transport == "local":
        raise ConfigError(
            f"workers: {workers}, but transport.name=local runs in one process. Leave one of the two out."
        )
    return workers == 0 or (workers is None and transport in (None, "local"))


def _section(tree: Mapping[str, Any]) -> dict[str, Any]:
    given = tree.get("transport", {})
    return dict(given) if isinstance(given, Mapping) else {"name": given}


def _transport(tree: Mapping[str, Any]) -> Any:
    """Return the transport that a configuration names, or None."""
    return _section(tree).get("name")


class _Hearing:
    """Calls the user's function, and keeps an exception that it raises until the run has ended.

    Attributes:
        error: that exception, or None.
    """

    def __init__(self, on_round: OnRound | None) -> None:
        self._on_round = on_round
        self.error: BaseException | None = None

    def hear(self, record: RoundRecord) -> bool:
        """Return whether the run must end."""
        assert self._on_round is not None
        if self.error is not None:
            return True
        try:
            return bool(self._on_round(record))
        except BaseException as error:  # also SystemExit, because the run must be saved first
            self.error = error
            return True
