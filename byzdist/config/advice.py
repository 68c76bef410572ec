"""Warnings before a run: what works, but not as a user may expect. Each names the number, the reason and what to set."""

import logging
from bisect import bisect_left

import numpy as np
import torch
from scipy.special import bdtrc

from byzdist.aggregation import Aggregator
from byzdist.config.schema import Config
from byzdist.errors import ConfigError, describe_error
from byzdist.methods import METHODS

log = logging.getLogger(__name__)
_RARE = 0.05  # a full round that can be trusted less often than this is worth a warning


def of_config(config: Config) -> None:
    """Log the warnings on a checked configuration."""
    _sampled_rounds(config)
    _availability(config)


def _sampled_rounds(config: Config) -> None:
    """Warn of a rule that has no effect in sampled rounds, or gets a smaller f than it should."""
    count, declared, method = config.clients.count, config.declared_byzantine, config.method
    banked, plain_mean = (getattr(METHODS.get(method.name), word, False) for word in ("keeps_bank", "plain_mean"))
    cohort = count if banked else method.parameters.get("cohort") or count
    clipped = method.parameters.get("clip") != "none"
    if declared and plain_mean and not clipped:
        log.warning(
            "method.clip: without clipping the sampled rounds of %s are a plain mean, which one Byzantine client decides. Set a "
            "number, or use byz_vr_marina_pp.",
            method.name,
        )
    rule = config.aggregation.rule.name
    if not declared or plain_mean or cohort == 1 or rule == "mean":
        return
    aggregator, f = Aggregator(config.aggregation.rule, config.aggregation.pre), declared * cohort // count
    if (max_f := aggregator.max_f(cohort)) < f:
        log.warning(
            "aggregation.rule: of the %d vectors of a sampled round (method.cohort) %s with its steps accepts %d as Byzantine, and "
            "%d are to be expected. Use a larger cohort or a rule with a higher breakdown point.",
            cohort,
            rule,
            max_f,
            f,
        )
    if _is_mean(aggregator, cohort, min(f, max_f)):
        log.warning(
            "aggregation: of the %d vectors of a sampled round (method.cohort), with f = %d, %s with its steps makes a plain mean, so "
            "%s. Use a larger cohort%s%s.",
            cohort,
            min(f, max_f),
            rule,
            "only clipping limits a Byzantine client" if clipped else "one Byzantine client decides it",
            ", or fewer or smaller buckets" if config.aggregation.pre else "",
            "" if rule == "coordinate_median" else ", or coordinate_median, which needs no f",
        )


def _is_mean(aggregator: Aggregator, rows: int, f: int) -> bool:
    """Return whether the aggregator averages ``rows`` vectors, by trying it on random ones."""
    drawn = torch.from_numpy(np.random.default_rng(0).standard_normal((rows, 8)))
    try:
        result = aggregator(drawn, f=f, generator=np.random.default_rng(0)).vector
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # a user's own rule may raise anything
        raise ConfigError(
            f"aggregation: rule and steps, tried on {rows} vectors of 8 numbers, ended with {describe_error(error)}."
        ) from error
    return bool(torch.allclose(result, drawn.mean(0), rtol=1e-9, atol=1e-12))


def _availability(config: Config) -> None:
    """Warn of full rounds that can rarely be trusted, because too few clients can take part."""
    availability, count, declared = config.clients.availability, config.clients.count, config.declared_byzantine
    if availability.name != "bernoulli" or config.aggregation.allow_breakdown or not declared:
        return
    wanted = config.method.parameters.get("full_cohort") or count
    aggregator = Aggregator(config.aggregation.rule, config.aggregation.pre)
    needed = 1 + bisect_left(range(1, wanted), True, key=lambda r: aggregator.max_byzantine(r) >= min(declared, r))
    q = availability.parameters["q"]
    chance = float(bdtrc(needed - 1, count, q))
    if chance < _RARE:
        log.warning(
            "clients.availability: with q = %g a full round can be trusted with probability %.2g: %d clients must take part for steps and "
            "rule to tolerate the %d declared Byzantine ones. Until then the estimate stays as it is. Use a rule with a higher breakdown "
            "point, or declare fewer.",
            q,
            chance,
            needed,
            declared,
        )
