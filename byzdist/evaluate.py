"""`byzdist evaluate`: how good a run's last model is, on its own data or on others."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from byzdist.checkpoint import Damaged, read, rounds
from byzdist.config import load
from byzdist.errors import ConfigError
from byzdist.evaluation import Evaluator
from byzdist.experiment import Experiment, choose_device, prepare
from byzdist.export import load_model
from byzdist.folder import checkpoints


def evaluate(folder: Path, overrides: Sequence[str] = ()) -> str:
    """Return a report on the model of a run, the final one or that of its last checkpoint, whichever is newer.

    Raises:
        ConfigError: if there is no run or no model, or the data do not fit the model.
    """
    config = load(folder / "config.yaml", overrides)
    device = choose_device(config, 0)
    experiment = prepare(config, device)
    round_, x = _last_model(folder, experiment)
    if len(x) != experiment.oracle.dimension:
        raise ConfigError(
            f"data: these data want a model of {experiment.oracle.dimension} parameters, and that of {str(folder)!r} has "
            f"{len(x)}; use data with as many features and classes."
        )
    data = experiment.dataset
    evaluator = Evaluator(
        experiment.oracle, data, config.clients.good, samples=config.evaluate.samples, seed=config.seed
    )
    measured = evaluator.evaluate(x.to(device, experiment.dtype))
    seen = (
        f"{len(data.labels)} training samples" if data.test_labels is None else f"{len(data.test_labels)} test samples"
    )
    return (
        f"{config.name}, model after round {round_}, data {config.data['name']}\n"
        f"  loss {measured['loss']:.6g} (good clients' training samples)\n"
        f"  accuracy {measured['accuracy']:.6g} ({seen})"
    )


def _last_model(folder: Path, experiment: Experiment) -> tuple[int, torch.Tensor]:
    """Return the newest intact model and its round; of a run that has diverged, the last good one."""
    found = []
    if (folder / "model.safetensors").exists():
        found.append(load_model(experiment.oracle.model, folder))
        if _has_diverged(folder):
            return found[0]  # the last good one
    for path in rounds(checkpoints(folder)).values():
        try:
            checkpoint = read(path)
        except Damaged:
            continue
        found.append((checkpoint.round, checkpoint.tensors["x"]))
        break
    if not found:
        raise ConfigError(f"{str(folder)!r} holds no model yet; a run leaves one at its first checkpoint.")
    return max(found, key=lambda model: model[0])


def _has_diverged(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "summary.json").read_text())["status"] == "diverged")
    except (OSError, ValueError, KeyError, TypeError):  # a run that goes on has none
        return False
