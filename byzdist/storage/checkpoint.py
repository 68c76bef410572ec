"""Checkpoints as files: safetensors whose metadata is JSON, with a format version, the run, the round and a checksum.

``round-00000120.safetensors`` is the server's of round 120, ``round-00000120.worker-2.safetensors`` what the clients of
worker 2 remember. A checkpoint counts as soon as the server's file exists.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from byzdist.errors import ConfigError
from byzdist.host.files import SUFFIX, check_plain, make_folder, parse_json, replacing

log = logging.getLogger(__name__)
FORMAT = 2  # 1: what clients remember had other names
_NAME = re.compile(r"round-(\d{8,})(?:\.worker-(\d+))?\.safetensors")
MISSING = "missing"  # the fact that lists the ranks whose part the checkpoint lacks
_KEY = "byzdist"
_DAMAGED = ".damaged"


class Damaged(Exception):
    """A file that differs from what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file's content.

    Attributes:
        run: the unique name of the run that it belongs to.
        round: the round after which it was taken.
        facts: everything that is not a tensor, as JSON.
    """

    run: str
    round: int
    facts: dict[str, Any]
    tensors: Mapping[str, Tensor]

    def write(self, folder: Path, worker: int | None = None) -> None:
        """Write the file of the server, or of a worker, atomically.

        Raises:
            OSError: if that is not possible; an earlier file is then unchanged.
        """
        words = json.dumps({"format": FORMAT, "run": self.run, "round": self.round, **self.facts})
        metadata = {"format": str(FORMAT), _KEY: words, "checksum": _checksum(words, self.tensors)}
        make_folder(folder, parents=worker is not None)  # the server writes into its run's folder, which must exist
        with replacing(folder / file_name(self.round, worker)) as part:
            try:
                save_file(dict(self.tensors), part, metadata)
            except SafetensorError as error:  # safetensors' form of an OSError
                raise OSError(None, str(error)) from None


def file_name(round_: int, worker: int | str | None = None) -> str:
    """Return the name of a round's file; ``worker`` may be a pattern."""
    return f"round-{round_:08}" + (f".worker-{worker}" if worker is not None else "") + ".safetensors"


def _checksum(words: str, tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256(words.encode())
    for key, tensor in sorted(tensors.items()):
        total.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()


def read_checkpoint(path: Path, max_bytes: int | None = None) -> Checkpoint:
    """Read a file of at most ``max_bytes`` and check it.

    Raises:
        Damaged: if it is torn, was changed, never was a checkpoint, or is gone.
        ConfigError: if it cannot be read now, or comes from a newer version of byzdist.
    """
    try:
        check_plain(path)
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise Damaged(f"it is larger than {max_bytes} bytes")
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            words = parse_json(metadata.get(_KEY, "{}"))
            version = words.pop("format", None)
            if str(version) != metadata.get("format"):
                raise Damaged("its format version is unclear")
            if version > FORMAT:
                raise ConfigError(
                    f"--resume: {str(path)!r} has format {version}, and this byzdist reads formats up to {FORMAT}; "
                    "go on with the version that wrote it, or a later one."
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is not a mapping
        if metadata.get("checksum") != _checksum(metadata[_KEY], tensors):
            raise Damaged("its checksum is wrong")
        run, round_ = words.pop("run"), words.pop("round")
        if not isinstance(run, str) or not isinstance(round_, int) or round_ < 0:
            raise Damaged("its run or round is missing or malformed")
        return Checkpoint(run, round_, words, tensors)
    except (Damaged, ConfigError):
        raise
    except (SafetensorError, FileNotFoundError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Damaged(f"it cannot be read: {error}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: it does not fit into memory
        raise ConfigError(
            f"{str(path)!r} cannot be read: {error}. The file may be intact: remove the cause, and try again."
        ) from None


def owner(path: Path) -> str | None:
    """Return the name of the run that a file belongs to; None if it is damaged or missing."""
    try:
        check_plain(path)
        with safe_open(path, "pt") as file:
            return str(parse_json(file.metadata()[_KEY])["run"])
    except (SafetensorError, FileNotFoundError, ValueError, TypeError, KeyError, RuntimeError):
        return None


def rounds(folder: Path) -> dict[int, Path]:
    """Return the server's files by round, the newest first."""
    found = {}
    for path in folder.glob("round-*.safetensors"):
        match = _NAME.fullmatch(path.name)
        if match and match[2] is None:
            found[int(match[1])] = path
    return dict(sorted(found.items(), reverse=True))


def newest(folder: Path, run: str) -> Checkpoint | None:
    """Return the newest intact checkpoint of a run; rename later ones, which are damaged, so that they no longer count.

    Raises:
        ConfigError: if all of them are damaged; or if one cannot be read, or is of another run or a later version, because
            this run must not overwrite it. Nothing is changed then.
    """
    damaged: dict[Path, Damaged] = {}
    for path in rounds(folder).values():
        try:
            found = read_checkpoint(path)
        except Damaged as damage:
            damaged[path] = damage
            continue
        if found.run != run:
            raise ConfigError(
                f"--resume: {str(path)!r} belongs to another run ({found.run}) than its folder ({run}); "
                "move it elsewhere."
            )
        for torn, reason in damaged.items():
            log.warning("the checkpoint %s is damaged (%s); using the one before it.", torn, reason)
            torn.rename(torn.with_suffix(_DAMAGED))
        return found
    if lost := sorted(path.name for path in (*damaged, *folder.glob(f"round-*{_DAMAGED}"))):
        raise ConfigError(
            f"--resume: no checkpoint in {str(folder)!r} is intact; damaged: {', '.join(lost)}. Put a copy of one there, or "
            "remove these files to start the run from the beginning."
        )
    return None


def prune(folder: Path, keep: int) -> int | None:
    """Remove all checkpoints of the server except the newest ``keep``; return the round of the oldest that is left."""
    found = list(rounds(folder).items())
    for _, path in found[keep:]:
        path.unlink(missing_ok=True)
    return found[:keep][-1][0] if found else None


def prune_worker(folder: Path, run: str, rank: int, workers: int, oldest: int) -> None:
    """Remove a worker's files of rounds before ``oldest``, and those of ranks that the run had when it had more workers."""
    for path in folder.glob("round-*.worker-*"):
        match = _NAME.fullmatch(path.name.removesuffix(SUFFIX))
        if match and int(match[1]) < oldest and (int(match[2]) - rank) % workers == 0 and owner(path) in (run, None):
            path.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in folder.glob(f"round-*{SUFFIX}"):
        path.unlink(missing_ok=True)
