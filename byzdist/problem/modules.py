"""What the trainer reads from a torch module, also a user's own, and what it refuses without trying the module.

A module may declare more about itself by attributes whose names begin with ``byzdist_``; all are optional:

* ``byzdist_l2``: the weight of the regularizer l2·‖x‖², over all trained parameters, which is added to the loss;
* ``byzdist_loss(logits, labels)``: the mean loss of a batch, in place of the cross-entropy;
* ``byzdist_convex``: true if the loss is convex in the parameters, so that its optimum can be found;
* ``byzdist_add_gradient(x, features, labels, scale, out)``, ``byzdist_add_difference(x_new, x_old, features, labels,
  scale, out)``, ``byzdist_hessian(x, features)``: closed forms in place of automatic differentiation, with the arguments
  of :class:`byzdist.problem.models.logistic_regression.LogisticRegression`; they are used if the task is classification.

The names without ``byzdist_`` are used as well if nothing else can be meant: an ``l2`` that is a number, a ``convex`` that is
a bool, and methods with exactly these arguments. A layer called ``l2`` or ``loss`` is a layer.
"""

import inspect
import logging
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from byzdist.errors import ConfigError

advice = logging.getLogger("byzdist.config.checks")  # only the server logs it, see `logs.leave_advice_to_the_server`
_PREFIX = "byzdist_"
_COMPILED = "_orig_mod"  # where torch.compile keeps the module that it wraps
_ARGUMENTS = {
    "loss": ["logits", "labels"],
    "add_gradient": ["x", "features", "labels", "scale", "out"],
    "add_difference": ["x_new", "x_old", "features", "labels", "scale", "out"],
    "hessian": ["x", "features"],
}


@dataclass(frozen=True)
class Declared:
    """What a module declares; see the top of this file. None: automatic differentiation, or the cross-entropy."""

    l2: float = 0.0
    convex: bool = False
    loss: Callable[..., Tensor] | None = None
    add_gradient: Callable[..., Any] | None = None
    add_difference: Callable[..., Any] | None = None
    hessian: Callable[..., Tensor] | None = None


def declared(model: nn.Module, name: str) -> Declared:
    """Return what a module declares; ``name`` is its name in the configuration.

    Raises:
        ConfigError: for a declaration of the wrong kind.
    """
    found = {}
    for key in (field.name for field in fields(Declared)):
        value = getattr(model, _PREFIX + key, None)
        if value is not None:
            if problem := _is_wrong(key, value):
                raise ConfigError(f"model: {name!r} has a {_PREFIX}{key} that is {problem}.")
            found[key] = value
        elif _is_clear(key, old := getattr(model, key, None)):
            found[key] = old
        elif key == "loss" and callable(old) and not (isinstance(old, nn.Module) and list(old.parameters())):
            advice.warning(
                "model: %r has a `loss` that is not used; the cross-entropy is. If it is meant, call it %sloss(logits, "
                "labels).",
                name,
                _PREFIX,
            )
    return Declared(**{**found, "l2": float(found.get("l2", 0.0))})


def _is_wrong(key: str, value: object) -> str:
    if key == "l2":
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return "" if real and 0 <= float(value) < math.inf else f"not a number of at least 0 (it is {value!r})"  # type: ignore[arg-type]
    if key == "convex":
        return "" if isinstance(value, bool) else f"neither true nor false (it is {value!r})"
    return "" if callable(value) else f"not a function of ({', '.join(_ARGUMENTS[key])})"


def _is_clear(key: str, value: object) -> bool:
    """Return whether an attribute without our prefix can only be meant for us."""
    if value is None or _is_wrong(key, value) or isinstance(value, nn.Module):
        return False
    if key not in _ARGUMENTS:
        return True
    try:
        return list(inspect.signature(value).parameters) == _ARGUMENTS[key]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that torch.compile has wrapped, or the module itself."""
    inner = getattr(model, _COMPILED, None)
    return inner if isinstance(inner, nn.Module) else model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that make up x, in order: each once, whatever names share it, and none that is frozen."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def saved_name(key: str) -> str:
    """Return a state_dict's key as it is without torch.compile."""
    return key.replace(f"{_COMPILED}.", "")


def fixed(model: nn.Module) -> dict[str, Tensor]:
    """Return what belongs to the module and is not part of x: frozen parameters, and buffers."""
    frozen = {name: parameter.data for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return frozen | dict(model.named_buffers())


def materialized(model: nn.Module, feature_shape: Sequence[int], name: str, *, tokens: bool = False) -> nn.Module:
    """Give lazy layers their shapes by a forward pass of two samples of zeros; ``tokens``: the zeros are integers.

    Raises:
        ConfigError: if the module cannot take them, or never uses a lazy layer.
    """
    if not any(map(is_lazy, chain(model.parameters(), model.buffers()))):
        return model
    dtype = next((p.dtype for p in model.parameters() if not is_lazy(p) and p.is_floating_point()), None)
    with torch.no_grad(), describing_errors(name, f"two samples of zeros, [2, {', '.join(map(str, feature_shape))}]"):
        model.eval()(torch.zeros(2, *feature_shape, dtype=torch.int64 if tokens else dtype))
    for layer, module in model.named_modules():
        own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
        if any(map(is_lazy, own)):
            raise ConfigError(
                f"model: {name!r} never uses its lazy {label(layer, module)}, whose shape is therefore unknown."
            )
    return model


def label(layer: str, module: nn.Module) -> str:
    """Return what to call a layer in a message."""
    return f"layer {layer!r} ({type(module).__name__})" if layer else type(module).__name__


@contextmanager
def describing_errors(name: str, given: str, layer: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn whatever a user's module raises inside into a ConfigError that says where."""
    try:
        yield
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # a user's own code may raise anything
        place = layer()
        what = f"its {place}" if place else "it"
        raise ConfigError(f"model: {name!r} cannot take {given}: {what} raises {reason(error)}.") from None


def reason(error: Exception) -> str:
    """Return an exception's type, first line, and place in the user's own code."""
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))
    places = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith((*ours, "<"))]
    place = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {text}{place}"


def draws_at_random(model: nn.Module) -> bool:
    """Return whether some layer is known to draw at random while it trains."""
    return any(
        (isinstance(module, _DropoutNd) and module.p > 0)
        or (isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0)
        or isinstance(module, nn.RReLU)
        for module in model.modules()
    )


def swap_norms(model: nn.Module, groups: int = 32) -> nn.Module:
    """Replace the batch norms of a module, in place, by group norms with the same weights; return the module.

    Args:
        model: any module; a batch norm itself is replaced by what is returned.
        groups: the limit for the number of groups of a layer, which is the largest divisor of the channels up to this. If it replaces
            a BatchNorm1d, whose input may have one number a channel, each group has at least two channels.
    """
    if isinstance(model, _BatchNorm):
        channels = model.num_features
        limit = max(1, channels // 2) if isinstance(model, nn.BatchNorm1d) else channels
        norm = nn.GroupNorm(next(g for g in range(min(groups, limit), 0, -1) if channels % g == 0), channels, model.eps)
        if model.affine:
            norm.weight, norm.bias = model.weight, model.bias
        else:
            norm.weight.requires_grad_(False)
            norm.bias.requires_grad_(False)
        return norm
    for name, child in model.named_children():
        setattr(model, name, swap_norms(child, groups))
    return model


def check(model: nn.Module, name: str, *, allow_batch_norm: bool = False) -> None:
    """Refuse what makes the gradient depend on more than x and the samples, and parameters that x would silently leave out.

    Raises:
        ConfigError: naming the module and the layer.
    """
    known = {id(parameter) for parameter in model.parameters()}
    for layer, module in model.named_modules():
        where = label(layer, module)
        batch_norm = isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and module.track_running_stats)
        if batch_norm and not allow_batch_norm:
            raise ConfigError(
                f"model: {name!r} has batch norm, {where}. Its output for a sample depends on the others of the batch, and its "
                "buffers (running statistics) are not part of x: clients cannot share them. byzdist.swap_norms(model) turns it "
                "into group norm; model.buffers=frozen keeps the statistics as they are, and model.buffers=local gives each client its own."
            )
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ConfigError(f"model: {name!r} wants sparse gradients, {where}; make it with sparse=False.")
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and value.requires_grad and id(value) not in known and value.is_leaf:
                raise ConfigError(
                    f"model: {name!r} has a tensor {attribute!r} in {where} that wants gradients and is not an nn.Parameter: it "
                    "would not be trained. Make it one."
                )
            hidden = (parameter for part in _hidden(value) for parameter in part.parameters())
            if any(parameter.requires_grad and id(parameter) not in known for parameter in hidden):
                raise ConfigError(
                    f"model: {name!r} keeps layers in {attribute!r} of {where}, a {type(value).__name__}, where torch does not "
                    "see their parameters. Use nn.ModuleList or nn.ModuleDict."
                )
    for key, parameter in model.named_parameters():
        if parameter.is_complex() or parameter.is_meta:
            what = f"is complex ({parameter.dtype})" if parameter.is_complex() else "has no values (it is on 'meta')"
            raise ConfigError(f"model: {name!r} has a parameter {key!r} that {what}; use real numbers on the CPU.")
    if not any(parameter.numel() for parameter in trained(model).values()):
        frozen = "it has no parameters"
        if known:
            frozen = "they have no entries" if trained(model) else "they are all frozen (requires_grad is False)"
        raise ConfigError(f"model: there is nothing to train in {name!r}: {frozen}.")
    _check_overlaps(model, name)


def _hidden(value: object) -> Iterator[nn.Module]:
    """Yield the modules in a plain list, tuple or dict."""
    members = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    yield from (member for member in members if isinstance(member, nn.Module))


def _check_overlaps(model: nn.Module, name: str) -> None:
    """Refuse two parameters that share memory: as parts of x they would diverge."""
    spans = sorted(
        (parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes, key)
        for key, parameter in trained(model).items()
        if parameter.numel() and parameter.is_contiguous()
    )
    for (_, end, first), (start, _, second) in zip(spans, spans[1:], strict=False):
        if start < end:
            raise ConfigError(
                f"model: {name!r} has two parameters in one piece of memory, {first!r} and {second!r}. To tie them, assign "
                "the same nn.Parameter to both names."
            )
