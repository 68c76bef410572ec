"""The trained model in files that others read."""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from byzdist.descriptors import spare_descriptors
from byzdist.errors import ConfigError, RunError
from byzdist.files import replacing


def state_dict(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the parameters of ``model`` by name with the values of the flat vector x, d values in the module's order."""
    named = dict(model.named_parameters())
    pieces = torch.split(x.detach().cpu(), [parameter.numel() for parameter in named.values()])
    return {name: piece.view(named[name].shape).clone() for name, piece in zip(named, pieces, strict=True)}


def save_model(model: nn.Module, x: Tensor, folder: Path, round_: int) -> None:
    """Write model.safetensors, and model.pt, a state_dict that ``torch.load(weights_only=True)`` reads.

    Args:
        model: says how x is cut into parameters.
        x: the flat vector, d values.
        folder: where the files go.
        round_: the round that x is the model of; model.safetensors says so in its metadata.

    Raises:
        RunError: if they cannot be written; files that were there are there still.
    """
    tensors = state_dict(model, x)
    try:
        with spare_descriptors, replacing(folder / "model.safetensors") as part:
            save_file(tensors, part, {"round": str(round_)})
        with spare_descriptors, replacing(folder / "model.pt") as part:
            torch.save(tensors, part)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's word for a full disk
        raise RunError(f"{str(folder)!r}: the model cannot be written: {error}.") from None


def load_model(model: nn.Module, folder: Path) -> tuple[int, Tensor]:
    """Read model.safetensors; return its round and the flat vector, d values in the module's order.

    Raises:
        ConfigError: if it is not there, or is not of this module.
    """
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            round_ = int((file.metadata() or {})["round"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}.") from None
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != wanted:
        sizes = [sum(math.prod(shape) for shape in shapes) for shapes in (found.values(), wanted.values())]
        raise ConfigError(
            f"data, model: {str(path)!r} holds a model of {sizes[0]} parameters, and these data and this model have "
            f"{sizes[1]}, or others; use data with as many features and classes."
        )
    return round_, torch.cat([tensors[name].flatten() for name in wanted])
