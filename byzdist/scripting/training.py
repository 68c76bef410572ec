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
    """Train, and return the run; nothing else of this process is changed.

    Args:
        model: a module, whose weights are x^0 and stay as they are; a function or class that makes one, called with nothing or with
            (feature_shape, classes); or a name or mapping as in YAML. A YAML file alone stands for ``config``.
        data: (X, y), ((X, y), (X_test, y_test)), a Dataset, a function that returns these, a name or mapping as in YAML. A function of a
            client's id is that client's private data, and is called in its worker only.
        config: a YAML file, or what is in one; all other arguments change it.
        workers: 0: everything in this process. N: a server and N workers, forks of this process. By default 0, unless
            ``transport.name`` is given and not local. Under torchrun (RANK is set) this process is one rank, whatever is given.
        out: the run's folder, by default a new one ``runs/NAME-DATE-TIME``.
        resume: go on with the run in ``out`` from its last checkpoint.
        max_restarts: how often all processes are started again when one fails.
        on_round: called in this process (under torchrun: in rank 0) with a copy of each round's record; True ends the run, which can be
            resumed. What it raises ends the run likewise, and is raised here.
        progress: whether progress is shown.
        settings: ``rounds``, ``clients``, ``byzantine``, ``method``, ``rule``, ``pre``, ``attack``, ``loss`` or ``task``, ``validation``,
            ``seed``, and every other key of a configuration, with sections as mappings or with dotted keys: ``**{"method.clip": 2.0}``.

    Returns:
        The run; None on a worker under torchrun.

    Raises:
        ConfigError: naming the key, before anything has begun.
        RunError: if the run fails or diverges.
        KeyboardInterrupt: at Ctrl-C, once the round in progress and a checkpoint are done.

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
        raise ConfigError(f"workers: {workers!r} is no number of worker processes; give 0 for a run in this process.")
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
        signal.raise_signal(number)  # now it is the caller's: a KeyboardInterrupt, unless the caller has it otherwise
    if folder is None:
        return None
    model_name = Spec.of(tree["model"]).name
    return Run(
        folder, {name: made for name, made in objects.by_name.items() if name == model_name}
    )  # the data are not kept


def _is_alone(workers: int | None, transport: Any) -> bool:
    """Return whether this process does it all."""
    if workers and transport == "local":
        raise ConfigError(
            f"workers: {workers} processes, but with transport.name=local there is one. Leave one of the two out."
        )
    return workers == 0 or (workers is None and transport in (None, "local"))


def _section(tree: Mapping[str, Any]) -> dict[str, Any]:
    given = tree.get("transport", {})
    return dict(given) if isinstance(given, Mapping) else {"name": given}


def _transport(tree: Mapping[str, Any]) -> Any:
    """Return the transport that a configuration asks for; None where it does not say."""
    return _section(tree).get("name")


class _Hearing:
    """Calls the user's function, and keeps what it raises until the run has ended.

    Attributes:
        error: that.
    """

    def __init__(self, on_round: OnRound | None) -> None:
        self._on_round = on_round
        self.error: BaseException | None = None

    def hear(self, record: RoundRecord) -> bool:
        """Return whether the run is to end."""
        assert self._on_round is not None
        if self.error is not None:
            return True
        try:
            return bool(self._on_round(record))
        except BaseException as error:  # SystemExit and all: the run is saved first
            self.error = error
            return True
