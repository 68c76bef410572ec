"""The results in a run's folder, for a script or a notebook."""

import base64
import html
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from byzdist.config.reading import read_tree
from byzdist.errors import ConfigError
from byzdist.given import giving, is_given
from byzdist.host.files import read_json
from byzdist.host.optional import optional
from byzdist.problem import models
from byzdist.registry import Spec, importing_only
from byzdist.reporting.plotting import draw, png
from byzdist.storage.export import fill
from byzdist.storage.folder import CONFIG, METRICS, RUN, SUMMARY
from byzdist.storage.lines import read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = ("status", "reason", "rounds", "loss", "gap", "grad_norm")  # of the summary, before the task's own metrics
_ALSO_SHOWN = ("byzantine_majorities", "missing", "bytes_up", "bytes_down", "seconds")


class Event(NamedTuple):
    """Something that happened to a client or worker, and the round in which the server noticed it."""

    round: int
    text: str


class Columns(Mapping[str, NDArray[Any]]):
    """The metrics of a run: an array for each key of its metrics lines, with a value for each round.

    A missing value is NaN, or None if the values are not numbers. Nested keys have dotted names, such as ``seconds.total``.
    """

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        flat = [dict(_flat(line)) for line in lines]
        self._columns = {
            key: _array([line.get(key) for line in flat]) for key in dict.fromkeys(key for line in flat for key in line)
        }

    def __getitem__(self, key: str) -> NDArray[Any]:
        if key not in self._columns:
            raise KeyError(f"{key!r}; there are {', '.join(self._columns)}")
        return self._columns[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"<metrics of {len(next(iter(self._columns.values()), ()))} rounds: {', '.join(self._columns)}>"

    def to_pandas(self) -> Any:
        """Return a data frame with a row a round.

        Raises:
            ConfigError: if pandas is not installed.
        """
        pandas = optional("pandas", "to_pandas: data frames need", "pandas")
        return pandas.DataFrame(
            {key: list(column) if column.dtype == object else column for key, column in self.items()}
        )


def _flat(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in line.items():
        if isinstance(value, Mapping) and key != "missing":
            yield from _flat(value, f"{prefix}{key}.")
        elif key != "news":
            yield prefix + key, value


def _array(values: list[Any]) -> NDArray[Any]:
    if all(type(value) is int for value in values):
        return np.array(values, dtype=np.int64)
    if all(value is None or isinstance(value, int | float) for value in values):
        return np.array(values, dtype=np.float64)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


class Run:
    """A run's folder; each property reads it anew. `load_run` and `byzdist.train` return it.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, objects: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.path = path
        self._objects = objects  # given for a run of this process, whose code is trusted

    @property
    def config(self) -> dict[str, Any]:
        """The complete configuration, from config.yaml."""
        return read_tree(self.path / CONFIG, follow=False)

    @property
    def summary(self) -> dict[str, Any]:
        """How the run ended, from summary.json; the status is "unfinished" if the run still trains, or was killed."""
        try:
            found = read_json(self.path / SUMMARY)
        except FileNotFoundError:
            return {"status": "unfinished", "rounds": len(self._lines())}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path}/summary.json: this is not what a run writes: {error}.") from None
        if not isinstance(found, dict) or "status" not in found:
            raise ConfigError(f"{self.path}/summary.json: this is not what a run writes: it has no status.")
        return found

    @property
    def metrics(self) -> Columns:
        """The measurements of each round."""
        return Columns(self._lines())

    @property
    def events(self) -> list[Event]:
        """The events of clients and workers."""
        return [Event(line["round"], str(text)) for line in self._lines() for text in line.get("news", [])]

    def model(self, module: Any = None, *, trust: bool = False) -> nn.Module:
        """Return the trained module: with the last model, or the last good one of a diverged run, or with ``stop`` the best one.

        Args:
            module: the module that gets the weights, or a function that makes it; by default the one that the configuration names.
            trust: whether code that the folder's config.yaml names as ``module:Name`` may be imported and run.

        Raises:
            ConfigError: if there is no model yet, if it belongs to another module, or if the module cannot be made here.
        """
        if module is None:
            module = self._made(trust)
        if not callable(module):  # a module is callable, too
            raise ConfigError(f"model: {module!r} is neither a module nor a function that makes one.")
        return fill(module if isinstance(module, nn.Module) else module(), self.path).eval()

    def _made(self, trust: bool) -> nn.Module:
        tree, described = self.config, read_json(self.path / RUN)
        spec, problem = Spec.of(tree["model"]), described.get("problem")
        if problem is None or is_given(spec.name) and spec.name not in (self._objects or {}):
            raise ConfigError(
                f"model: {self.path} does not say how {spec.name!r} is made. Give the module: run.model(module)."
            )
        trusted = trust or self._objects is not None
        with giving(self._objects or {}), nullcontext() if trusted else importing_only(()):
            return models.build(
                spec.without("buffers"),
                problem["features"],
                problem["outputs"],
                tree["seed"],
                tokens=problem["inputs"] == "tokens",
            )

    def plot(self) -> "Figure":
        """Return a figure: gap or loss, and the task's first metric, against rounds and uplink bytes.

        Raises:
            ConfigError: if matplotlib is not installed, or nothing was evaluated yet.
        """
        return draw([self.path])

    def _lines(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, which a run starts with its first round."""
        return read_lines(self.path) if os.path.lexists(self.path / METRICS) else []

    def _table(self) -> list[tuple[str, str]]:
        summary = self.summary
        own = [key for key in read_json(self.path / RUN).get("metrics", {}) if key not in _SHOWN]
        keys = [key for key in (*_SHOWN, *own, *_ALSO_SHOWN) if summary.get(key) is not None]
        return [("folder", str(self.path)), *((key.replace("_", " "), _shown(summary[key])) for key in keys)]

    def __repr__(self) -> str:
        rows = self._table()
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th><td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in self._table()
        )
        return f"<table>{rows}</table>{self._picture()}"

    def _picture(self) -> str:
        """Return the figure as HTML; "" without matplotlib, or before the first evaluation."""
        try:
            figure = self.plot()
        except ConfigError:
            return ""
        return f'<img alt="the run\'s curves" src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}">'


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def load_run(folder: str | Path) -> Run:
    """Return the run in a folder, finished or not.

    Raises:
        ConfigError: if the folder holds no run.
    """
    if not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"load_run: {folder!r} is not the path of a folder.")
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(
            f"load_run: {str(path)!r} {'is not a folder' if path.exists() else 'does not exist'}. Name the folder of a run."
        )
    if not (path / RUN).exists() or not (path / CONFIG).exists():
        raise ConfigError(f"load_run: {str(path)!r} holds no run ({RUN} and {CONFIG}).")
    return Run(path)
