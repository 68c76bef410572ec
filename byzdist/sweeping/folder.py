"""A sweep's folder: sweep.yaml, which makes the same runs again, runs.csv, the index, and a folder for each run."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from byzdist.config.reading import dump, read_tree
from byzdist.config.schema import Config
from byzdist.config.yaml_reading import read_yaml
from byzdist.errors import ConfigError, RunError
from byzdist.host.files import read_json, read_text, write_text
from byzdist.host.locks import Lock, LockTaken
from byzdist.storage.folder import CONFIG, RUN, SUMMARY, is_empty
from byzdist.sweeping.axes import Sweep
from byzdist.sweeping.naming import label
from byzdist.words import flat

SWEEP, INDEX = "sweep.yaml", "runs.csv"
Status = Literal["missing", "unfinished", "failed", "diverged", "finished"]


@dataclass(frozen=True)
class State:
    """How far a run has come, and why it went no further; ``summary`` is what its summary.json says."""

    status: Status
    reason: str
    summary: Mapping[str, Any]


def state_of(folder: Path) -> State:
    """Return how far the run in a folder has come.

    Raises:
        ConfigError: for a summary that no run writes.
    """
    if not folder.is_dir() or is_empty(folder):
        return State("missing", "", {})
    try:
        summary = read_json(folder / SUMMARY)
        status, reason = summary["status"], str(summary.get("reason", ""))
    except FileNotFoundError:
        return State("unfinished", "", {})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{folder}/summary.json: this is not what a run writes: {error}.") from None
    known: dict[str, Status] = {"finished": "finished", "diverged": "diverged", "failed": "failed"}
    return State(known.get(status, "unfinished"), reason, summary)


def check_same(folder: Path, config: Config) -> None:
    """Refuse a folder that holds anything but a run of this very configuration; it may hold nothing.

    Raises:
        ConfigError: naming the folder and the keys.
    """
    if not folder.exists() or (folder.is_dir() and is_empty(folder)):
        return
    if not (folder / RUN).is_file():
        raise ConfigError(f"--out: {str(folder)!r} is in the way: it holds no run ({RUN}). Name a new folder.")
    if not (folder / CONFIG).exists():  # its run ended while it began
        return
    before, now = flat(read_tree(folder / CONFIG, follow=False)), flat(read_yaml(dump(config), CONFIG))
    if changed := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
        changes = "; ".join(
            f"{key} was {label(before.get(key, 'not set'))} and is {label(now.get(key, 'not set'))}" for key in changed
        )
        raise ConfigError(f"--out: {str(folder)!r} holds a run of another configuration: {changes}. Name a new folder.")


@contextmanager
def begun(folder: Path, sweep: Sweep, names: Sequence[str]) -> Iterator[None]:
    """Write sweep.yaml into a sweep's folder, and keep other sweeps out; the folder is new, or belongs to a sweep that this one contains.

    Raises:
        ConfigError: if the folder holds anything else, is in use, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_sweep(folder) and not is_empty(folder):
            raise ConfigError(f"--out: {str(folder)!r} is not empty, and holds no sweep ({SWEEP}). Name a new folder.")
        lock = Lock(folder / ".lock")
        lock.acquire(0)
    except LockTaken:
        raise ConfigError(f"--out: a sweep is using {str(folder)!r}; wait for its end or name a new folder.") from None
    except OSError as error:
        raise ConfigError(f"--out: cannot write to {str(folder)!r}: {error.strerror or error}.") from None
    try:
        _describe(folder, sweep, names)
        yield
    finally:
        lock.release()


def _describe(folder: Path, sweep: Sweep, names: Sequence[str]) -> None:
    try:
        if is_sweep(folder):
            lost = [name for name in (m.name for m in load(folder).members()) if name not in set(names)]
            if lost:
                raise ConfigError(
                    f"--out: {str(folder)!r} holds a sweep with other runs, {lost[0]!r} for example. A sweep goes on with the same runs "
                    "or with more. Name a new folder."
                )
        write_text(folder / SWEEP, yaml.safe_dump(sweep.tree, sort_keys=False))
    except OSError as error:
        raise ConfigError(f"--out: cannot write to {str(folder)!r}: {error.strerror or error}.") from None


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is a sweep's."""
    return (folder / SWEEP).is_file()


def load(folder: Path) -> Sweep:
    """Return the sweep of a folder."""
    return Sweep(read_tree(folder / SWEEP, follow=False), folder)


def write_index(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write runs.csv: folder, status, reason, rounds, seconds, and the settings of each run."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    try:
        write_text(folder / INDEX, text.getvalue(), durable=False)
    except OSError as error:
        raise RunError(f"{str(folder / INDEX)!r} cannot be written: {error.strerror or error}.") from None


def reasons(folder: Path) -> dict[str, str]:
    """Return why runs failed, by name, as runs.csv has it: a run that was killed could not write it down itself."""
    try:
        rows = csv.DictReader(io.StringIO(read_text(folder / INDEX)))
        return {row["folder"]: row["reason"] for row in rows if row["status"] == "failed"}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise ConfigError(f"{folder / INDEX}: this is not what a sweep writes: {error}.") from None


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping | list) else value
