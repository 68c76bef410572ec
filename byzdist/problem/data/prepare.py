"""Turns a configuration's data section into arrays that all processes of a host share.

The first process prepares plain .npy files in the cache folder; it and all others map them into memory. So only one
process parses, no process imports a parser when the cache is warm, and a data set is in memory once for any number of
clients. If the cache cannot be written (no room, no rights), each process prepares the data for itself.
"""

import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byzdist.errors import ConfigError, describe_error
from byzdist.given import is_given
from byzdist.host.caching import cache_folders, make_cache, say_that_it_cannot_be_used
from byzdist.host.files import check_plain, share
from byzdist.host.locks import Lock
from byzdist.problem.data.arrays import advice, as_arrays, outputs
from byzdist.problem.data.base import DATASETS, Dataset
from byzdist.problem.data.generators import draw_seeds, global_generators
from byzdist.problem.data.lazy import Prepared, is_lazy, prepare_lazy
from byzdist.problem.task import Task
from byzdist.problem.tasks.classification import CLASSIFICATION
from byzdist.randomness import stream
from byzdist.registry import Named, Spec

_FORMAT = 4  # of the cached arrays
_MAX_MEMBERS = 10_000  # files of a folder that are looked at
_log = logging.getLogger(__name__)
_advice = logging.getLogger("byzdist.config.checks.data")  # only the server logs it, see reporting/logs.py


def load(named: Named, cache: Path | None = None, dtype: str = "float64", task: Task = CLASSIFICATION) -> Prepared:
    """Return the data set of a data section as a task wants it, with numbers of the given dtype, from the cache or freshly prepared.

    Data that are read lazily are not in the cache: each process calls their function.

    Raises:
        ConfigError: for an unknown name, a wrong parameter, a missing or damaged file, or a user's own function that fails.
    """
    spec = DATASETS.check(named, "data")
    key = fingerprint(_FORMAT, spec.plain(), dtype, task.target, task.inputs, entry=DATASETS.get(spec.name))
    name = f"{re.sub('[^a-z0-9_]', '_', spec.name.lower())[:40]}-{key}"
    wanted = np.dtype(dtype)
    kept = [cache] if cache is not None else cache_folders()
    if is_given(spec.name):  # the source of an object does not determine its data
        kept = []
    folders = [folder / "data" / name for folder in kept]
    found = next(filter(None, (_open(folder, key, wanted, task) for folder in folders)), None)
    prepared: Prepared | dict[str, NDArray[Any]] | None = None
    for folder in [] if found else folders:
        try:
            make_cache(folder.parent.parent)
            folder.parent.mkdir(exist_ok=True)
            with Lock(folder.with_name(f"{name}.lock")):
                found = _open(folder, key, wanted, task)  # another process may have been faster
                if found is None:
                    prepared = prepared or _prepare(spec, key, wanted, task)
                    if not isinstance(prepared, dict):
                        break
                    _keep(prepared, folder)
                    found = _open(folder, key, wanted, task)
        except OSError as error:
            say_that_it_cannot_be_used(folder.parent.parent, error)
        if found is not None:
            break
    if found is None:
        prepared = prepared or _prepare(spec, key, wanted, task)
        if not isinstance(prepared, dict):
            return prepared
        found = _dataset(key, prepared, task)
    if task.target == "classes" and (said := advice(found.labels, found.classes)):
        _advice.warning("data: %s", said)
    return found


def fingerprint(*parts: Any, entry: Callable[..., Any]) -> str:
    """Return a short hash of configuration parts, of the files they name, and of the source file of ``entry``.

    A string that names an existing file or folder counts with the size and the time of change of its content.
    """

    def files(part: Any) -> list[tuple[str, int, int]]:
        if isinstance(part, Mapping):
            return [file for value in part.values() for file in files(value)]
        if not isinstance(part, str | os.PathLike) or "\0" in str(part) or not os.path.exists(part):
            return []
        members = _members(Path(part).resolve())
        return [(str(path), facts.st_size, facts.st_mtime_ns) for path, facts in members if stat.S_ISREG(facts.st_mode)]

    source = inspect.getsourcefile(entry) or ""
    content = json.dumps([parts, [files(part) for part in parts], files(source)], default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _members(path: Path, levels: int = 3) -> list[tuple[Path, os.stat_result]]:
    """Return a file, or the files in a folder and a few levels below, with their facts; at most as many as a data set may have."""
    found: list[tuple[Path, os.stat_result]] = []
    level = [path]
    for _ in range(levels + 1):
        below: list[Path] = []
        for member in sorted(level)[:_MAX_MEMBERS]:
            with suppress(OSError):  # a broken link, or one that may not be followed
                facts = member.stat()
                found.append((member, facts))
                if stat.S_ISDIR(facts.st_mode):
                    below += member.iterdir()
        level = below
    return found[:_MAX_MEMBERS]


def _open(folder: Path, key: str, dtype: np.dtype[Any], task: Task) -> Dataset | None:
    # Mode "c" maps private pages: shared with all processes as long as nobody writes, and torch takes them without a
    # warning.
    def array(name: str) -> NDArray[Any]:
        check_plain(folder / f"{name}.npy")
        mapped: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        if mapped.dtype not in (dtype, np.int64):
            raise ValueError("not what was prepared")
        return mapped

    try:
        tested = (folder / "test_labels.npy").exists()
        names = ("features", "labels", *(("test_features", "test_labels") if tested else ()))
        return _dataset(key, {name: array(name) for name in names}, task)
    except (OSError, ValueError):  # missing, readable for another user only, or damaged by a crash of the machine
        return None


def _dataset(key: str, arrays: Mapping[str, NDArray[Any]], task: Task) -> Dataset:
    return Dataset(
        key=key,
        features=arrays["features"],
        labels=arrays["labels"],
        test_features=arrays.get("test_features"),
        test_labels=arrays.get("test_labels"),
        classes=outputs(arrays, task),
    )


def _prepare(spec: Spec, key: str, dtype: np.dtype[Any], task: Task) -> Prepared | dict[str, NDArray[Any]]:
    _log.info("preparing data set %s", spec.name)
    try:
        with global_generators(draw_seeds(stream(0, "data"))):  # random_split, say, is then the same in every process
            returned = DATASETS.build(spec, key="data")
    except (ConfigError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a user's own function may raise anything
        raise ConfigError(f"data: {spec.name!r} ended with {describe_error(error)}.") from error
    if is_lazy(returned):
        return prepare_lazy(returned, spec.name, key, dtype.name, task)
    return as_arrays(returned, spec.name, dtype, task)


def _keep(arrays: Mapping[str, NDArray[Any]], folder: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        for name, array in arrays.items():
            np.save(scratch / f"{name}.npy", array)
        share(scratch, folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
