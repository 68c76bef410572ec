"""The trained model in files that others read."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def state_dict(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the parameters of ``model`` by name with the values of the flat vector x, d values in the module's order."""
    named = dict(model.named_parameters())
    pieces = torch.split(x.detach().cpu(), [parameter.numel() for parameter in named.values()])
    return {name: piece.view(named[name].shape).clone() for name, piece in zip(named, pieces, strict=True)}


def save_model(model: nn.Module, x: Tensor, folder: Path) -> None:
    """Write model.safetensors, and model.pt, a state_dict that ``torch.load(weights_only=True)`` reads."""
    tensors = state_dict(model, x)
    save_file(tensors, folder / "model.safetensors")
    torch.save(tensors, folder / "model.pt")
