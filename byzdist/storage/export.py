"""The trained model in files that other programs read."""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from byzdist.errors import ConfigError, RunError
from byzdist.host.descriptors import spare_descriptors
from byzdist.host.files import check_plain, replacing
from byzdist.problem.modules import saved_name, trained


def state_dict(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return a state_dict that ``model.load_state_dict`` accepts strictly, with trained parameters from the flat vector x.

    That includes frozen parameters and buffers, and each name of tied parameters. Names are those without torch.compile.
    """
    named = trained(model)
    pieces = torch.split(x.detach().cpu(), [parameter.numel() for parameter in named.values()])
    values = {id(parameter): piece for parameter, piece in zip(named.values(), pieces, strict=True)}
    whole = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):  # a module's extra state may be anything
            whole[saved_name(key)] = values.get(id(tensor), tensor.detach().cpu()).view(tensor.shape).clone()
    return whole


def save_model(model: nn.Module, x: Tensor, folder: Path, round_: int) -> None:
    """Write model.safetensors, and model.pt, a state_dict that ``torch.load(weights_only=True)`` reads.

    Args:
        model: says how x is cut into parameters.
        x: the flat vector, d values.
        folder: where the files go.
        round_: the round whose model x is; model.safetensors has it in its metadata.

    Raises:
        RunError: if they cannot be written; earlier files are then unchanged.
    """
    tensors = state_dict(model, x)
    try:
        with spare_descriptors, replacing(folder / "model.safetensors") as part:
            save_file(tensors, part, {"round": str(round_)})
        with spare_descriptors, replacing(folder / "model.pt") as part:
            torch.save(tensors, part)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch raises it for a full disk
        raise RunError(f"{str(folder)!r}: the model cannot be written: {error}.") from None


def load_model(model: nn.Module, folder: Path) -> tuple[int, Tensor]:
    """Read model.safetensors; return its round and the flat vector, d values in the module's order.

    Raises:
        ConfigError: if it does not exist, or is of another module.
    """
    round_, tensors = _read(model, folder)
    return round_, torch.cat([tensors[saved_name(name)].flatten() for name in trained(model)])


def fill(model: nn.Module, folder: Path) -> nn.Module:
    """Load the values in model.safetensors into a module, in their dtype, and return it; errors as for `load_model`."""
    _, tensors = _read(model, folder)
    model.to(next(tensors[saved_name(name)].dtype for name in trained(model)))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if isinstance(tensor, Tensor):
                tensor.copy_(tensors[saved_name(name)])
    return model


def _read(model: nn.Module, folder: Path) -> tuple[int, dict[str, Tensor]]:
    """Return the round and the tensors of model.safetensors, checked to be those of this module."""
    path = folder / "model.safetensors"
    wanted = {
        saved_name(name): list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    try:
        check_plain(path)
        with safe_open(path, "pt") as file:
            found = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - it is not a mapping
            if found != wanted:  # before reading: the tensors may be larger than memory
                sizes = [sum(math.prod(shape) for shape in shapes) for shapes in (found.values(), wanted.values())]
                raise ConfigError(
                    f"data, model: {str(path)!r} holds a model of {sizes[0]} parameters, and these data and this model have "
                    f"{sizes[1]}, or others; use data with as many features and classes."
                )
            tensors = {key: file.get_tensor(key) for key in wanted}
            round_ = int((file.metadata() or {})["round"])
        if not all(tensors[saved_name(name)].is_floating_point() for name in trained(model)):
            raise ValueError("its numbers are not floating point")
    except ConfigError:  # it is a ValueError, too
        raise
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:  # the last: too little memory
        raise ConfigError(f"{str(path)!r} cannot be read: {error}.") from None
    return round_, tensors
