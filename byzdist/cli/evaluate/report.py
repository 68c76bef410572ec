"""`byzdist evaluate`: how good a run's last model is, on its own data or on others."""

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from byzdist.config.reading import override, parse, read_tree, resolve_paths
from byzdist.errors import ConfigError
from byzdist.host.accelerators import choose_device, use
from byzdist.host.files import read_json
from byzdist.problem.evaluation import NOTES
from byzdist.registry import importing_only
from byzdist.runtime.evaluating import evaluator
from byzdist.runtime.experiment import Experiment, prepare
from byzdist.storage.checkpoint import Damaged, read_checkpoint, rounds
from byzdist.storage.export import load_model
from byzdist.storage.folder import CONFIG, SUMMARY, checkpoints

_MAX_FACTS, _MAX_VECTORS = 1 << 27, 64  # bytes of facts, and vectors of the model's size: no checkpoint has more


def evaluate(folder: Path, overrides: Sequence[str] = (), *, trust: bool = False) -> str:
    """Return a report on the model of a run, the final one or the one in its last checkpoint, whichever is newer.

    Args:
        folder: the run's.
        overrides: of the run's configuration, such as other data.
        trust: whether code that the run's configuration names (``module:Name``) may be imported; the overrides are the user's own.

    Raises:
        ConfigError: if there is no run or no model, if the data do not fit the model, or for code without trust.
    """
    tree = read_tree(folder / CONFIG, follow=False)
    own: dict[str, Any] = {}
    for assignment in overrides:
        tree, own = override(tree, assignment), override(own, assignment)
    with nullcontext() if trust else importing_only(set(_strings(own))):
        try:
            return _evaluate(folder, tree)
        except MemoryError as error:
            raise ConfigError(f"data, model: they do not fit into memory: {error}") from None


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    for below in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _strings(below)


def _evaluate(folder: Path, tree: dict[str, Any]) -> str:
    config = parse(resolve_paths(tree, folder))
    device = choose_device(config.device, 0)
    use(device)
    experiment = prepare(config, device)
    if experiment.is_private:
        raise ConfigError(
            "data.where: the data of this run lie with its workers. Name data that are here, as in 'data={name: csv, path: FILE}'."
        )
    round_, x = _last_model(folder, experiment)
    data = experiment.dataset
    measuring = evaluator(experiment)
    assert measuring is not None, "the data are here"
    measured = measuring.evaluate(x.to(device, experiment.dtype))
    if experiment.validation is not None:
        seen = f"{len(experiment.validation.labels)} samples for validation"
    else:
        seen = f"{len(data.labels)} training" if data.test_labels is None else f"{len(data.test_labels)} test"
        seen = f"{seen} samples"
    lines = [
        f"{config.name}, model after round {round_}, data {config.data.name}",
        f"  loss {measured['loss']:.6g} (honest clients' training samples)",
    ]
    for name, metric in experiment.task.metrics.items():
        lines.append(f"  {name} {measured[name]:.6g} ({seen}){NOTES[metric.better]}")
    return "\n".join(lines)


def _last_model(folder: Path, experiment: Experiment) -> tuple[int, torch.Tensor]:
    """Return the newest intact model and its round; for a run that has diverged the last good one, with `stop` the best one."""
    found = []
    if os.path.lexists(folder / "model.safetensors"):
        found.append(load_model(experiment.oracle.loss.model, folder))
        if _has_diverged(folder) or experiment.config.stop is not None:
            return found[0]  # the last good one, or the best one
    max_bytes = _MAX_FACTS + _MAX_VECTORS * experiment.oracle.dimension * torch.float64.itemsize
    for path in rounds(checkpoints(folder)).values():
        try:
            checkpoint = read_checkpoint(path, max_bytes)
            found.append((checkpoint.round, _fitting(checkpoint.tensors["x"], experiment, folder)))
        except (Damaged, KeyError):
            continue
        break
    if not found:
        raise ConfigError(f"{str(folder)!r} holds no model yet; a run leaves one at its first checkpoint.")
    return max(found, key=lambda model: model[0])


def _fitting(x: torch.Tensor, experiment: Experiment, folder: Path) -> torch.Tensor:
    d = experiment.oracle.dimension
    if x.shape != (d,) or not x.is_floating_point():
        raise ConfigError(
            f"data: these data want a model of {d} parameters, and that of {str(folder)!r} has {x.numel()}; use data with as "
            "many features and classes."
        )
    return x


def _has_diverged(folder: Path) -> bool:
    try:
        return bool(read_json(folder / SUMMARY)["status"] == "diverged")
    except (OSError, ValueError, KeyError, TypeError):  # a run that still trains has none
        return False
