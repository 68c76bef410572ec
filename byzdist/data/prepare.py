"""From a configuration's data section to arrays that all processes of a host share.

The first process to come prepares plain .npy files in the cache folder; it and all others map them into memory. So
only one process parses, nobody imports a parser when the cache is warm, and a data set is in memory once however many
clients there are.
"""

import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from byzdist.data.base import DATASETS, Dataset, RawData
from byzdist.errors import ConfigError

_FORMAT = 1
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return $BYZDIST_CACHE, or else ~/.cache/byzdist."""
    return Path(os.environ.get("BYZDIST_CACHE") or Path.home() / ".cache" / "byzdist")


def check(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Check the data section (name and parameters, without the split) as far as that is cheap; return it completed.

    Raises:
        ConfigError: an unknown name, a wrong parameter, a missing file, or one that begins wrongly.
    """
    parameters = {key: value for key, value in spec.items() if key != "name"}
    name = DATASETS.canonical(spec["name"], "data")
    return {"name": name, **DATASETS.check(name, parameters, "data")}


def load(spec: Mapping[str, Any], cache: Path | None = None, dtype: str = "float64") -> Dataset:
    """Return the data set of a data section, with features of the given dtype, from the cache or prepared just now.

    Raises:
        ConfigError: as :func:`check`, and where a file turns out to be damaged or the cache folder is not writable.
    """
    spec = check(spec)
    cache = (cache or cache_folder()) / "data"
    key = fingerprint(_FORMAT, spec, dtype, entry=DATASETS.get(spec["name"]))
    folder = cache / f"{re.sub('[^a-z0-9_]', '_', spec['name'].lower())}-{key}"
    found = _open(folder, key)
    if found is not None:
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            found = _open(folder, key)  # another process may have been faster
            if found is None:
                _prepare(spec, folder, np.dtype(dtype))
                found = _open(folder, key)
    except OSError as error:
        raise ConfigError(f"data: cannot write the cache folder {str(cache)!r}: {error}. Set BYZDIST_CACHE.") from error
    assert found is not None
    return found


def fingerprint(*parts: Any, entry: Callable[..., Any]) -> str:
    """Return a short hash of configuration parts, of the files they name, and of the source file of ``entry``.

    A string that names an existing file or folder stands for its content as size and time of change tell it.
    """

    def files(part: Any) -> list[tuple[str, int, int]]:
        if isinstance(part, Mapping):
            return [file for value in part.values() for file in files(value)]
        if not isinstance(part, str) or not os.path.exists(part):
            return []
        path = Path(part).resolve()
        members = sorted(path.iterdir()) if path.is_dir() else [path]
        return [(str(m), m.stat().st_size, m.stat().st_mtime_ns) for m in members if m.is_file()]

    source = inspect.getsourcefile(entry) or ""
    content = json.dumps([parts, [files(part) for part in parts], files(source)], default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _open(folder: Path, key: str) -> Dataset | None:
    # Mode "c" maps private pages: shared with all processes as long as nobody writes, and torch takes them without a
    # warning.
    def array(name: str) -> NDArray[Any]:
        mapped: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return mapped

    try:
        tested = (folder / "test_labels.npy").exists()
        labels = array("labels")
        return Dataset(
            key=key,
            features=array("features"),
            labels=labels,
            test_features=array("test_features") if tested else None,
            test_labels=array("test_labels") if tested else None,
            classes=int(labels.max()) + 1,
        )
    except (OSError, ValueError):  # not there, or torn by a crash of the machine
        return None


def _prepare(spec: Mapping[str, Any], folder: Path, dtype: np.dtype[Any]) -> None:
    _log.info("preparing data set %s in %s", spec["name"], folder)
    raw = DATASETS.get(spec["name"])(**{key: value for key, value in spec.items() if key != "name"})
    _validate(raw, spec["name"])
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        for name, array in vars(raw).items():
            if array is not None:
                wanted = dtype if name.endswith("features") else np.dtype(np.int64)
                np.save(scratch / f"{name}.npy", np.ascontiguousarray(array, wanted))
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _validate(raw: RawData, name: str) -> None:
    """Refuse what no model can learn from; what a user's own function returns is checked here like any other."""
    for part, features, labels in (("", raw.features, raw.labels), ("test ", raw.test_features, raw.test_labels)):
        if features is None or labels is None:
            if part and features is None and labels is None:
                continue
            raise ConfigError(f"data.name: {name!r} gives {part}features without labels, or labels without features.")
        if labels.ndim != 1 or features.ndim < 2 or len(features) != len(labels) or not len(labels):
            shapes = f"{features.shape} and {labels.shape}"
            raise ConfigError(
                f"data.name: {name!r} gives {part}features and labels of shapes {shapes}; want [N, ...], [N]."
            )
        if features.shape[1:] != raw.features.shape[1:]:
            raise ConfigError(f"data.name: {name!r} gives test features of another shape than its training features.")
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > raw.labels.max():
            raise ConfigError(
                f"data.name: {name!r} gives {part}labels that are not the integers 0, 1, ... of its classes."
            )
        if not np.isfinite(features).all():
            raise ConfigError(f"data.name: {name!r} has {part}features that are NaN or infinite. Clean the data first.")
    if raw.labels.max() < 1:
        raise ConfigError(f"data.name: {name!r} has one class only; there is nothing to learn.")
