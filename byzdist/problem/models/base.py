"""The registry of models, and how one is made."""

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
        ConfigError: an unknown name, a wrong parameter, or data that the model does not fit.
    """
    spec = MODELS.check(named, "model")
    name, default = spec.name, torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):  # torch's own initializers draw from its global generator only
        torch.manual_seed(int(stream(seed, "model").integers(2**63)))
        try:
            model = MODELS.build(spec, tuple(feature_shape), classes, key="model")
        except (ConfigError, MemoryError):
            raise
        except Exception as error:  # whatever a user's own code raises
            raise ConfigError(
                f"model: {name!r} cannot be made for features of shape {list(feature_shape)} and {classes} classes: "
                f"{modules.reason(error)}."
            ) from error
        finally:
            torch.set_default_dtype(default)
        if isinstance(model, nn.Module):
            return modules.materialized(model, feature_shape, name, tokens=tokens)
    what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise ConfigError(f"model: {name!r} makes {what}, not a torch module.")


class Regularized(nn.Module):
    """A stack of layers, and the weight of its regularizer."""

    def __init__(self, layers: nn.Module, l2: float) -> None:
        super().__init__()
        self.layers, self.l2 = layers, l2

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of features [b, ...]."""
        logits: Tensor = self.layers(features)
        return logits
