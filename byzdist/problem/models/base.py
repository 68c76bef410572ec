"""The registry of models, and how one is made.

A model function (or class) makes a torch module for the data. Its parameters that require a gradient are x.

Args:
    feature_shape: the shape of one sample's features, a tuple; () if private data do not say it.
    classes: how many outputs a sample, or each token, has: classes, labels, numbers to predict, or the vocabulary;
        0 if only the task knows.

Returns:
    A module on the CPU. It maps features [b, ...] to outputs [b, classes] (for two classes or one number also [b, 1]) that depend on x
    and the samples alone; torch's global generator is seeded while it is made. What else it may declare is in
    `byzdist.problem.modules`.

Raises:
    ConfigError: for data that it does not fit. Any other exception becomes a ConfigError with its text and place.

Example:
    >>> from math import prod
    >>> import torch
    >>> from torch import nn
    >>> def net(feature_shape: tuple[int, ...], classes: int, *, width: int = 8) -> nn.Module:
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(prod(feature_shape), width), nn.ReLU(), nn.Linear(width, classes))
    >>> net((2, 3), 4)(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 4])
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from byzdist.errors import ConfigError
from byzdist.problem import modules
from byzdist.randomness import stream
from byzdist.registry import Named, Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "feature_shape", "classes")

Size = Annotated[int, Ge(1)]
Weight = Annotated[float, Ge(0)]


def build(named: Named, feature_shape: Sequence[int], classes: int, seed: int, *, tokens: bool = False) -> nn.Module:
    """Return the model of a configuration's model section, the same in every process, on the CPU; ``tokens``: features are integers.

    Raises:
        ConfigError: for an unknown name, a wrong parameter, or data that the model does not fit.
    """
    spec = MODELS.check(named, "model")
    name, default = spec.name, torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):  # torch's own initializers draw from its global generator only
        torch.manual_seed(int(stream(seed, "model").integers(2**63)))
        try:
            model = MODELS.build(spec, tuple(feature_shape), classes, key="model")
        except (ConfigError, MemoryError):
            raise
        except Exception as error:  # a user's own code may raise anything
            raise ConfigError(
                f"model: {name!r} cannot be made for features of shape {list(feature_shape)} and {classes} classes: "
                f"{modules.reason(error)}."
            ) from error
        finally:
            torch.set_default_dtype(default)
        if isinstance(model, nn.Module):
            model = modules.materialized(model, feature_shape, name, tokens=tokens)
            if ":" not in name:  # a user's own is tried with samples, see `byzdist.problem.trial`
                _check_fit(model, feature_shape, classes, name, tokens=tokens)
            return model
    what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise ConfigError(f"model: {name!r} makes {what}, not a torch module.")


def _check_fit(model: nn.Module, feature_shape: Sequence[int], classes: int, name: str, *, tokens: bool) -> None:
    """Refuse a registered model that these data and this task do not fit, by passing a sample of zeros."""
    if classes < 1:
        raise ConfigError(
            f"model: {name!r} must know how many outputs it makes, and neither the data nor the task says so. Use a module of your own."
        )
    dtype, was_training = torch.int64 if tokens else torch.get_default_dtype(), model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *feature_shape, dtype=dtype))
    except Exception as error:
        what = "tokens" if tokens else "numbers"
        raise ConfigError(
            f"model: {name!r} does not fit features of shape {list(feature_shape)} that are {what}: {modules.reason(error)}. "
            "Use another model, or other data."
        ) from error
    finally:
        model.train(was_training)


class Regularized(nn.Module):
    """A stack of layers, and the weight of its regularizer."""

    def __init__(self, layers: nn.Module, l2: float) -> None:
        super().__init__()
        self.layers, self.l2 = layers, l2

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of features [b, ...]."""
        logits: Tensor = self.layers(features)
        return logits
