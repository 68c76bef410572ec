"""What a caller may give to an `Aggregator`, and the checks of it."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from byzdist.errors import ConfigError
from byzdist.registry import Named, Registry, Spec

OneOf: TypeAlias = Named | Callable[..., Any]
"""How a rule or a step may be given: by its name, {name: ..., parameters}, a spec, or itself."""
Steps: TypeAlias = OneOf | Sequence[OneOf] | None


def piece(registry: Registry[Any], given: OneOf, key: str) -> tuple[Any, dict[str, Any]]:
    """Return a rule or step and its checked parameters; ``key`` is for the error."""
    if _is_itself(given):
        return given, {}
    spec = registry.check(given, key)  # type: ignore[arg-type]
    return registry.get(spec.name, key), dict(spec.parameters)


def listed(steps: Steps) -> Sequence[OneOf]:
    """Return the steps as a list, which a single one need not be."""
    if steps is None:
        return ()
    return [steps] if isinstance(steps, str | Mapping | Spec) or _is_itself(steps) else steps  # type: ignore[list-item, return-value]


def _is_itself(given: Any) -> bool:
    return callable(given) and not isinstance(given, str | Mapping | Spec)


def check(V: Any, clip: float | None, out: Tensor | None) -> None:
    """Refuse arguments of a call that have another form than the call names.

    Raises:
        ConfigError: naming the argument.
    """
    if not isinstance(V, Tensor) or V.ndim != 2 or V.shape[0] < 1 or not V.is_floating_point():
        raise ConfigError(f"V: a tensor n x d of a floating type with n >= 1 is needed (it is {_form(V)}).")
    if V.is_meta or V.layout != torch.strided:
        raise ConfigError(f"V: a dense tensor with values is needed (it is {V.layout} on {V.device}).")
    if clip is not None and not (isinstance(clip, Real) and clip >= 0):
        raise ConfigError(f"clip: a number of at least 0 is needed, or None (it is {clip!r}).")
    if out is not None and (out.shape != V.shape[1:] or not out.is_floating_point()):
        raise ConfigError(f"out: a tensor of {V.shape[1]} floating numbers is needed (it is {_form(out)}).")


def check_result(result: Any, d: int, name: str) -> Tensor:
    """Return the result of a rule on whole vectors, which may be a user's own.

    Raises:
        ConfigError: if it is not a vector of d real numbers.
    """
    if not isinstance(result, Tensor) or result.shape != (d,) or result.is_complex():
        raise ConfigError(
            f"aggregation.rule: {name!r} must return a tensor of d = {d} real numbers (it returned {_form(result)})."
        )
    return result


def _form(value: object) -> str:
    return f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
