"""An aggregator for NVFlare's workflows (FedAvg, ScatterAndGather) with any of the robust rules and pre-aggregation steps."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator

from byzdist.aggregation import Aggregator, aggregate
from byzdist.errors import ConfigError
from byzdist.integrations.declared import check_declared
from byzdist.randomness import stream
from byzdist.registry import Named


class RobustAggregator(ModelAggregator):  # type: ignore[misc, unused-ignore]  # NVFlare has no types
    """Robust aggregation of the models, or differences of models, that clients send.

    Only replies in the most frequent form (kind, names, shapes and types) count, so a single client cannot have the others left
    out. Replies that are not finite are left out, too. The numbers of steps are claims, so they do not count.

    Args:
        rule: a registered name, {name: ..., parameters}, or a spec.
        f: how many of a round's replies may be Byzantine.
        pre: pre-aggregation steps in order, each given in the same way.
        seed: keys the steps' random draws, together with the round.

    Raises:
        ConfigError: for an unknown name, a wrong parameter or f; also by ``aggregate_model``, which ends the job, if the steps and
            the rule do not tolerate f among the replies that came.
    """

    def __init__(self, rule: Named, *, f: int, pre: Sequence[Named] = (), seed: int = 0) -> None:
        super().__init__()
        self._bounds = Aggregator(rule, pre, key="nvflare")
        check_declared(f, "nvflare")
        self._rule, self._pre, self._f, self._seed = rule, list(pre), f, seed
        self._models: list[FLModel] = []
        self._round = 0

    def accept_model(self, model: FLModel) -> None:
        """Keep a client's reply until the round is aggregated."""
        self._models.append(model)

    def aggregate_model(self) -> FLModel:
        """Return the aggregate of the replies that have the most frequent form."""
        forms = Counter(form for model in self._models if (form := _form(model)) is not None)
        if not forms:
            raise ConfigError("nvflare: no reply is a dictionary of arrays.")
        ((form, _),) = forms.most_common(1)
        models = [model for model in self._models if _form(model) == form]
        if self._bounds.max_byzantine(len(models)) < self._f:
            raise ConfigError(f"nvflare.f: {len(models)} replies of one form came, too few for f = {self._f}.")
        draws = stream(self._seed, "nvflare", 0, self._round)
        self._round += 1
        rows = [model.params for model in models]
        params = aggregate(rows, self._rule, pre=self._pre, f=self._f, generator=draws, nonfinite="drop")
        return FLModel(params_type=models[0].params_type, params=params)

    def reset_stats(self) -> None:
        """Drop the replies."""
        self._models = []


def _form(model: FLModel) -> Any:
    """Return the kind, names, shapes and types of a reply; None if it is not a dictionary of arrays."""
    params = model.params
    if not isinstance(params, dict) or not all(
        isinstance(value, np.ndarray | torch.Tensor) for value in params.values()
    ):
        return None
    return model.params_type, frozenset((name, tuple(value.shape), str(value.dtype)) for name, value in params.items())
