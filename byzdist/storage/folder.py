"""The run's folder: who may write there, and what a run goes on from."""

import errno
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byzdist.config.reading import is_path
from byzdist.config.schema import Config
from byzdist.config.yaml_reading import read_yaml
from byzdist.errors import ConfigError
from byzdist.host.files import SUFFIX, check_plain, read_json, read_text
from byzdist.host.locks import Lock, LockTaken
from byzdist.storage.checkpoint import MISSING, Checkpoint, newest, remove_parts
from byzdist.words import flat

log = logging.getLogger(__name__)
RUN, CONFIG = "run.json", "config.yaml"  # a folder belongs to a run as soon as the first of these exists
METRICS, SUMMARY, CLIENTS = "metrics.jsonl", "summary.json", "clients.csv"
_LOCK = ".lock"
_OURS = frozenset({_LOCK, RUN + SUFFIX})  # what a process may leave if it ends before the run exists
# Files of the system, which an empty folder may hold: lost+found, .nfs... of network file systems, those of Finder and Explorer.
_LITTER = frozenset({"lost+found", ".snapshot", ".DS_Store", ".localized", "desktop.ini", "Thumbs.db"})
_FILES = frozenset({_LOCK, RUN, CONFIG, METRICS, SUMMARY, CLIENTS, "model.safetensors", "model.pt"})
_LITTER_BEGINS = (".nfs", ".fuse_hidden", "._")
_LOCK_PATIENCE = 10.0  # seconds: the processes of a killed run need a moment to release it
# Values that earlier versions used, which had no keys for them.
_IMPLIED = {"precision": "full", "task.name": "classification", "task.inputs": "numbers"}
# What a resumed run may change: keys, or whole sections.
_HARMLESS = (
    "name",
    "rounds",
    "evaluate",
    "metrics",
    "checkpoint",
    "on_divergence",
    "aggregation.compile",  # it gives the same bits
    "data.workers",
    "device",  # the kind of the device that results is compared
    "transport.name",
    "transport.deadline",
    "transport.join_timeout",
    "transport.late_share",
    "transport.restarts",
)


@dataclass
class RunFolder:
    """A folder that belongs to this process's run.

    Attributes:
        name: the run's unique name.
        checkpoint: what the run continues from; None for a start from the beginning, and once it has been used.
        resumed_after: the rounds after which the run was resumed until now.
        lock: keeps other processes out while it is held.
    """

    path: Path
    name: str
    checkpoint: Checkpoint | None
    resumed_after: list[int]
    lock: Lock

    @property
    def checkpoints(self) -> Path:
        """The checkpoints' folder."""
        return checkpoints(self.path)

    @property
    def attempts(self) -> tuple[int, int | None]:
        """Which attempt at the run this is, and which one took the checkpoint."""
        return len(self.resumed_after), self.checkpoint.facts.get("life") if self.checkpoint else None

    @property
    def missing(self) -> list[int]:
        """The ranks of that attempt whose part the checkpoint lacks."""
        return self.checkpoint.facts.get(MISSING, []) if self.checkpoint else []


def checkpoints(folder: Path) -> Path:
    """Return the checkpoints' folder in a run's folder."""
    return folder / "checkpoint"


@dataclass(frozen=True)
class Wanted:
    """What a folder must know of the run that will use it.

    Attributes:
        identity: as JSON, what must or should be the same when a run goes on from a checkpoint.
        vector: the model's size in bytes.
        memories: how many vectors of that size the clients may remember in all.
    """

    config: Config
    identity: dict[str, Any]
    vector: int
    memories: int


def claim(out: Path | None, wanted: Wanted, resume: bool) -> RunFolder:
    """Return the folder of a new run, or of the run to resume, locked for this process.

    Args:
        out: the folder; None for a new one under ``runs``.
        wanted: the run.
        resume: whether the folder's run goes on; without a run there, a new one starts.

    Raises:
        ConfigError: if the folder cannot be written, holds anything else, is in use or has too little room, or if the
            run there has another configuration, or no intact checkpoint.
    """
    if out is None and resume:
        raise ConfigError("--resume: name the folder of the run with --out.")
    folder = out or Path("runs") / f"{wanted.config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    lock = None
    try:
        if out is None:
            folder = new_folder(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
        _check_ours(folder, resume)  # before a lock file is made there
        lock = Lock(folder / _LOCK)
        lock.acquire(_LOCK_PATIENCE if resume else 0)
        found = _enter(folder, wanted, resume, lock)
        _check_room(found, wanted)
    except LockTaken:
        raise ConfigError(f"--out: a run is using {str(folder)!r}; wait for its end or name a new folder.") from None
    except OSError as error:
        if lock is not None:
            lock.release()
        name = f" ({Path(error.filename).name})" if error.filename and Path(error.filename) != folder else ""
        raise ConfigError(f"--out: cannot write to {str(folder)!r}{name}: {error.strerror or error}.") from None
    except ConfigError:
        if lock is not None:
            lock.release()
        raise
    return found


def new_folder(folder: Path) -> Path:
    """Make a new folder of this name, or with a number after it: runs that start in the same second get one each."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in range(2, 10_000):
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            folder = folder.with_name(f"{folder.name.removesuffix(f'_{number - 1}')}_{number}")
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))


def is_empty(folder: Path) -> bool:
    """Return whether a folder holds nothing but a lock and files of the system."""
    names = {path.name for path in folder.iterdir()}
    return all(name in _OURS or name in _LITTER or name.startswith(_LITTER_BEGINS) for name in names)


def _check_plain(folder: Path) -> None:
    """Refuse a run's folder in which links, FIFOs and the like have taken the place of files: no run leaves those."""
    for path in folder.iterdir():
        if path.name == checkpoints(folder).name:
            if path.is_symlink():
                raise OSError(errno.EINVAL, "it is a symbolic link, not a folder", str(path))
            for file in path.glob("round-*"):
                check_plain(file)
        elif path.name in _FILES:
            check_plain(path)


def _check_ours(folder: Path, resume: bool) -> None:
    """Refuse a folder that holds anything but a run to resume."""
    if is_empty(folder):
        return
    is_run = (folder / RUN).exists()
    if not resume:
        remedy = "add --resume to go on with its run, or " if is_run else ""
        raise ConfigError(f"--out: {str(folder)!r} is not empty; {remedy}name a new folder.")
    if not is_run:
        raise ConfigError(f"--out: {str(folder)!r} holds no run to resume ({RUN} is missing).")


def _enter(folder: Path, wanted: Wanted, resume: bool, lock: Lock) -> RunFolder:
    _check_ours(folder, resume)
    if is_empty(folder):
        if resume:
            log.warning("there is no run in %s to resume; a new one starts.", folder)
        return RunFolder(folder, uuid.uuid4().hex, None, [], lock)
    _check_plain(folder)
    name, resumed_after = _read_run(folder)
    checkpoint = newest(checkpoints(folder), name)
    if checkpoint is None:
        if (config := folder / CONFIG).exists():
            _compare(_read_config(config), wanted.config)
        log.warning("there is no checkpoint in %s; its run starts again from the beginning.", folder)
    else:
        _check_same(checkpoint, wanted)
    remove_parts(checkpoints(folder))
    return RunFolder(folder, name, checkpoint, [*resumed_after, checkpoint.round if checkpoint else -1], lock)


def _read_run(folder: Path) -> tuple[str, list[int]]:
    try:
        facts = read_json(folder / RUN)
        return str(facts["run"]), list(facts["resumed_after"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"--resume: {str(folder / RUN)!r} is not what a run writes: {error}.") from None


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        found = read_yaml(read_text(path), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"--resume: {str(path)!r} is not what a run writes: {error}.") from None
    return found if isinstance(found, Mapping) else {}


def _check_same(checkpoint: Checkpoint, wanted: Wanted) -> None:
    """Refuse to go on with another experiment than the checkpoint's."""
    before, now = checkpoint.facts, wanted.identity
    _compare(before["config"], wanted.config)
    for key, remedy in (
        ("device", "use the same kind of device"),
        ("data", "the data (or clients.availability.path) have changed; use those of the run"),
    ):
        if before[key] != now[key]:
            raise ConfigError(f"{key}: the run to resume had {before[key]}, and this one has {now[key]}; {remedy}.")
    if checkpoint.round > wanted.config.rounds:
        raise ConfigError(
            f"rounds: the run to resume has come to round {checkpoint.round}, beyond {wanted.config.rounds} rounds."
        )
    for key, value in now["versions"].items():
        if before["versions"].get(key) != value:
            log.warning(
                "the run to resume had %s %s, and this is %s: the last bits of the results may differ from those of an "
                "uninterrupted run.",
                key,
                before["versions"].get(key),
                value,
            )


def _compare(before: Mapping[str, Any], config: Config) -> None:
    """Refuse a configuration that differs from the run's in any key that is not harmless."""
    new = flat(json.loads(json.dumps(config.model_dump(exclude_none=True))))  # as a checkpoint has it: no tuples
    old = flat(before)
    if "task" not in before:
        old = _IMPLIED | old
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and not _is_harmless(key))
    if changed:
        changes = "; ".join(
            f"{key} was {old.get(key, 'not set')!r} and is {new.get(key, 'not set')!r}" for key in changed
        )
        raise ConfigError(
            f"--resume: the configuration would change the run: {changes}. Use the run's own config.yaml."
        )


def _is_harmless(key: str) -> bool:
    section, _, name = key.rpartition(".")
    if section in ("data", "clients.availability") and is_path(name):
        return True  # the content of the files is compared
    return any(key == harmless or key.startswith(f"{harmless}.") for harmless in _HARMLESS)


def _check_room(found: RunFolder, wanted: Wanted) -> None:
    """Refuse to start if the disk cannot take the checkpoints and the model."""
    copies = wanted.config.checkpoint.keep + 1 if found.checkpoint is None else 1
    need, free = ((2 + wanted.memories) * copies + 2) * wanted.vector, shutil.disk_usage(found.path).free
    if free < need:
        raise ConfigError(
            f"--out: {str(found.path)!r} has {free / 1e6:.0f} MB left, and checkpoints and model need {need / 1e6:.0f} MB; "
            "free some, name another folder, or lower checkpoint.keep."
        )
