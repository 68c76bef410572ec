"""A strategy for Flower's ServerApp with any of the robust rules, pre-aggregation and the clipping heuristic of Byz-VR-MARINA-PP."""

import math
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from byzdist.aggregation import Aggregator, aggregate
from byzdist.errors import ConfigError, describe_error
from byzdist.integrations.declared import check_declared
from byzdist.norms import norm
from byzdist.randomness import stream
from byzdist.registry import Named

Arrays = dict[str, Any]  # numpy arrays by name


class RobustStrategy(FedAvg):  # type: ignore[misc, unused-ignore]  # of type Any where Flower is not installed
    """Federated averaging with a robust rule instead of the average: x^{k+1} = x^k + u^k, where u^k aggregates the clients' updates u_i^k.

    With ``clip`` it is the heuristic [BRPP eq. 10]: u^k = u^{k-1} + rule(clip_λ(u_i^k - u^{k-1})), λ = clip ‖x^k - x^{k-1}‖, which
    withstands a Byzantine majority in a cohort. The first round is not clipped. A reply is left out and logged if its form is not
    the model's or a value is not finite. The numbers of examples are claims, so they do not count.

    Args:
        rule: a registered name, {name: ..., parameters}, or a spec.
        f: how many of a round's replies may be Byzantine. A round without clipping changes nothing if the steps and the rule do not
            tolerate f among the replies that came.
        pre: pre-aggregation steps in order, each given in the same way.
        clip: α of the heuristic; None: no clipping.
        seed: keys the steps' random draws, together with the round.
        **options: options of FedAvg, such as fraction_train. Metrics are medians by default.

    Raises:
        ConfigError: for an unknown name, a wrong parameter, or an f or clip out of range.
    """

    def __init__(
        self,
        rule: Named,
        *,
        f: int,
        pre: Sequence[Named] = (),
        clip: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self._bounds = Aggregator(rule, pre, key="flower")
        check_declared(f, "flower")
        if clip is not None and not 0 < clip < math.inf:
            raise ConfigError(f"flower.clip: {clip!r}; a positive number or None is needed.")
        self._rule, self._pre, self._f, self._clip, self._seed = rule, pre, f, clip, seed
        self._sent: Arrays = {}
        self._last: Arrays = {}  # u^{k-1}
        median: Any = median_metrics
        super().__init__(**{"train_metrics_aggr_fn": median, "evaluate_metrics_aggr_fn": median, **options})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Keep a copy of the model that is sent to the clients."""
        self._sent = {name: array.numpy() for name, array in arrays.items()}
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model (None: no change) and the metrics of the clients whose replies have the model's form."""
        good = []
        # by node, because the order of arrival is random
        for message in sorted(replies, key=lambda message: message.metadata.src_node_id):
            try:
                good.append((self._update(message), message.content))
            except Exception as error:  # a hostile message may cause any exception
                log(WARNING, "round %d: a reply is left out: %s", server_round, describe_error(error))
        if not good:
            return None, None
        updates, contents = map(list, zip(*good, strict=True))
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        if not (self._clip and self._last) and self._bounds.max_byzantine(len(good)) < self._f:
            text = "round %d: %d replies are too few for f = %d; the model stays."
            log(WARNING, text, server_round, len(good), self._f)
            return None, metrics
        try:
            self._last = self._aggregated(updates, server_round)
        except ConfigError as error:  # all differences from u^{k-1} overflow their type
            log(WARNING, "round %d: the model stays: %s", server_round, error)
            return None, metrics
        change = self._last
        model = {name: sent + change[name] if _real(sent) else change[name] for name, sent in self._sent.items()}
        return ArrayRecord({name: Array(np.asarray(value)) for name, value in model.items()}), metrics

    def _aggregated(self, updates: list[Arrays], server_round: int) -> Arrays:
        """Return u^k; for an entry that is not floating point, the middle one of the replies' values."""
        pre = list(self._pre)
        if self._clip and self._last:
            updates = [{name: u - self._last[name] if _real(u) else u for name, u in one.items()} for one in updates]
            step = math.hypot(*(norm(torch.from_numpy(np.ravel(u)).double()) for u in self._last.values() if _real(u)))
            pre = [{"name": "clip", "threshold": max(self._clip * step, 1e-300)}, *pre]  # a threshold must be positive
        f, draws = min(self._f, self._bounds.max_f(len(updates))), stream(self._seed, "flower", 0, server_round)
        found = aggregate(updates, self._rule, pre=pre, f=f, generator=draws, nonfinite="drop")
        if not (self._clip and self._last):
            return dict(found)
        return {name: self._last[name] + u if _real(u) else u for name, u in found.items()}

    def _update(self, message: Message) -> Arrays:
        """Return the client's update: the model in its reply minus the model that was sent."""
        if message.has_error():
            raise ValueError(message.error.reason)
        (record,) = message.content.array_records.values()
        if record.keys() != self._sent.keys():
            raise ValueError("its arrays have other names than the model's")
        update = {}
        for name, sent in self._sent.items():
            array = record[name].numpy()
            if array.shape != sent.shape or array.dtype != sent.dtype:
                raise ValueError(f"{name} is {array.shape}, {array.dtype}; the model has {sent.shape}, {sent.dtype}")
            with np.errstate(invalid="ignore", over="ignore"):
                update[name] = array - sent if _real(sent) else array
            if not np.isfinite(update[name]).all():
                raise ValueError(f"{name} holds NaN or infinity")
        return update

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the aggregated metrics of the replies without errors."""
        contents = [message.content for message in replies if not message.has_error()]
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key) if contents else None

    def summary(self) -> None:
        """Log the settings."""
        log(INFO, "\t├──> byzdist: rule %s, pre %s, f %d, clip %s", self._rule, list(self._pre), self._f, self._clip)
        super().summary()


def _real(array: Any) -> bool:
    return np.issubdtype(np.asarray(array).dtype, np.floating)


def median_metrics(contents: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Return the median of each metric that most clients report as a finite number; weights are claims, so they do not count."""
    claims: dict[str, list[float]] = {}
    for content in contents:
        reported: Mapping[str, Any] = next(iter(content.metric_records.values()), {})
        for name, value in reported.items():
            if isinstance(value, int | float) and math.isfinite(value):
                claims.setdefault(name, []).append(float(value))
    return MetricRecord(
        {name: float(np.median(told)) for name, told in claims.items() if 2 * len(told) > len(contents)}
    )
