"""What runs have measured, for tables: the settings of each run, how it has ended, and one number."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from byzdist.config.reading import read_tree
from byzdist.errors import ConfigError
from byzdist.host.files import read_json
from byzdist.problem.evaluation import OF_ANY_TASK
from byzdist.problem.task import Better
from byzdist.reporting.pictures.curves import Axis, positions
from byzdist.reporting.pictures.history import read_history
from byzdist.storage.folder import CONFIG, RUN
from byzdist.storage.lines import read_lines
from byzdist.sweeping.folder import Status, is_sweep, load, reasons, state_of
from byzdist.sweeping.naming import label
from byzdist.words import flat

_UNNAMED = ("name",)  # keys that say nothing of what was trained
_PLACE = re.compile(
    r"last|best|round=\d{1,9}|(?P<cost>gradients|bytes|seconds)=(?P<spent>\d{1,15}(\.\d{1,9})?(e\d{1,2})?)"
)


@dataclass(frozen=True)
class Metric:
    """A number of a run: a name of its summary or its metrics, and where in the run.

    Attributes:
        at: ``last``, ``best``, ``round=N``, or the last one for which at most this much was spent: ``gradients=N`` (of single samples),
            ``bytes=N`` (uplink) or ``seconds=N`` (of rounds).
    """

    name: str
    at: str = "last"

    @classmethod
    def of(cls, text: str, at: str = "last") -> "Metric":
        """Return the metric that a text ``NAME`` or ``NAME@PLACE`` means.

        Raises:
            ConfigError: for another place.
        """
        name, _, place = text.partition("@")
        if not _PLACE.fullmatch(place or at):
            raise ConfigError(
                f"--at: {place or at!r} is none of last, best, round=N, gradients=N, bytes=N and seconds=N."
            )
        return cls(name, place or at)

    def __str__(self) -> str:
        what, _, number = self.at.partition("=")
        if not number:
            return {"last": self.name, "best": f"best {self.name}"}[what]
        return f"{self.name} after {what} {number}" if what == "round" else f"{self.name} after {number} {what}"


class Measured(NamedTuple):
    """A run's number; None if the run has not finished, or has no such number."""

    status: Status
    value: float | None


@dataclass(frozen=True)
class Found:
    """A run, wherever its folder is.

    Attributes:
        settings: by dotted key, as text: for a sweep's run what the sweep sets, for any other its whole configuration.
        reason: why it failed, if it could not write that down itself.
    """

    folder: Path
    settings: Mapping[str, str]
    reason: str = ""

    def measure(self, metric: Metric) -> Measured:
        """Return the run's number.

        Raises:
            ConfigError: if its files are not what a run writes, or it has finished without such a number.
        """
        state = state_of(self.folder)
        if state.status != "finished":
            return Measured("failed" if self.reason else state.status, None)
        if metric.at == "last" and metric.name in state.summary:
            value = state.summary[metric.name]
        else:
            value = self._search(metric)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not is_number:
            raise ConfigError(f"--value: {metric.name!r} of {self.folder} is {value!r}, which is no number.")
        return Measured("finished", float(value)) if is_number else Measured("diverged", None)

    def _search(self, metric: Metric) -> Any:
        """Return the value in the metrics; null, which stands for a number that is not finite, is None."""
        lines = {line["round"]: line[metric.name] for line in read_lines(self.folder) if metric.name in line}
        if not lines:
            names = [key for key in state_of(self.folder).summary if key not in ("status", "reason", "claimed")]
            raise ConfigError(
                f"--value: {metric.name!r} was not measured in {self.folder}. There are {', '.join(names)}."
            )
        if metric.at == "last":
            return lines[max(lines)]
        if metric.at == "best":
            numbers = [value for value in lines.values() if value is not None]
            choose = max if self.better(metric.name) == "higher" else min
            return choose(numbers) if numbers else None
        if (spent := _PLACE.fullmatch(metric.at)) is not None and spent["cost"]:
            return lines[self._round_of_cost(spent["cost"], float(spent["spent"]), lines)]
        round_ = int(metric.at.partition("=")[2])
        if round_ not in lines:
            near = min(lines, key=lambda there: abs(there - round_))
            raise ConfigError(
                f"--at: {metric.name!r} was not measured after round {round_} in {self.folder}; the nearest is {near}."
            )
        return lines[round_]

    def _round_of_cost(self, cost: str, budget: float, measured: Collection[int]) -> int:
        """Return the last of the ``measured`` rounds up to which a run has spent at most a budget."""
        run = read_history(self.folder)
        spent = positions(run, cast(Axis, cost))
        if spent[-1] < budget:
            raise ConfigError(
                f"--at: {self.folder} has spent {spent[-1]:g} {cost} in all, less than {budget:g}; train longer, or compare at less."
            )
        within = run.rounds[spent <= budget].astype(int).tolist()
        found = [round_ for round_ in within if round_ in measured]
        if not found:
            raise ConfigError(
                f"--at: nothing was measured in {self.folder} before it had spent {budget:g} {cost}; compare at more."
            )
        return int(found[-1])

    def better(self, name: str) -> Better | None:
        """Return in which direction a metric is better; None if the run does not say."""
        if name in OF_ANY_TASK:
            return OF_ANY_TASK[name]
        try:
            found = read_json(self.folder / RUN)["metrics"].get(name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{self.folder / RUN}: this is not what a run writes: {error}.") from None
        return found if found in ("higher", "lower") else None


def find_runs(folders: Sequence[Path]) -> list[Found]:
    """Return the runs in these folders; a sweep's folder has all of its runs, including those that are missing.

    Raises:
        ConfigError: for a folder that holds neither.
    """
    found: list[Found] = []
    for folder in folders:
        if is_sweep(folder):
            why, sweep = reasons(folder), load(folder)
            for member in sweep.members():
                settings = {key: label(value) for key, value in {**sweep.tree["set"], **member.settings}.items()}
                found.append(Found(folder / member.name, settings, why.get(member.name, "")))
        elif (folder / CONFIG).is_file():
            tree = flat(_named(read_tree(folder / CONFIG, follow=False)))
            found.append(Found(folder, {key: label(value) for key, value in tree.items() if key not in _UNNAMED}))
        else:
            raise ConfigError(f"{str(folder)!r} holds neither a sweep nor a run.")
    return found


def _named(node: Any) -> Any:
    """Return a configuration in which a piece without parameters is its name, as people write it."""
    if isinstance(node, Mapping):
        return node["name"] if list(node) == ["name"] else {key: _named(below) for key, below in node.items()}
    return node
