"""Warnings at the start of a run that need both data and method. Each names the number, the reason and what to set."""

import logging

from byzdist.config.schema import Config
from byzdist.methods import Method
from byzdist.problem.client_data import ArrayData
from byzdist.problem.data import warn_of_rare_classes
from byzdist.runtime.experiment import Experiment

log = logging.getLogger(__name__)
_MAX_ROUNDS = 256  # whose step sizes are looked at
_MAX_SAMPLES = 8192  # from which the Lipschitz constant is computed


def of_run(experiment: Experiment) -> None:
    """Log the warnings that need both data and method."""
    _feedback(experiment.config, experiment.method)
    _step_size(experiment)
    clients, table = experiment.config.clients, experiment.label_table
    if clients.byzantine and table is not None:
        warn_of_rare_classes(table, len(clients.honest_ids))


def _feedback(config: Config, method: Method) -> None:
    """Warn of a clipping level with which a minority can make the estimate grow, and the level with it."""
    p, declared = getattr(method, "p", None), config.declared_byzantine
    factor = method.clip_factor(largest_step(config, method))
    if p is None or method.clip == "none" or not declared:
        return
    bound = p * config.clients.count / (2 * declared)
    if factor > bound * (1 + 1e-9):  # both numbers are rounded, and the shipped settings lie exactly at the bound
        log.warning(
            "method.clip: the level is %.3g ‖g‖, above p/(2δ) = %.3g. A minority that repeats g's own direction can make g and the level "
            "grow until the next full round. A method.clip up to %.3g or a method.p from %.3g is safe; until then %s.",
            factor,
            bound,
            method.clip * bound / factor,
            factor * 2 * declared / config.clients.count,
            f"method.clip_growth limits it to {method.clip_growth} times"
            if method.clip_growth != "none"
            else "nothing limits it",
        )


def _step_size(experiment: Experiment) -> None:
    """Warn of a step size that no theory allows: γ <= 1/(L(1+√A)) <= 1/L [BRPP, Theorems 4.1 and 4.2]."""
    method = experiment.method
    if not method.follows_gradients or getattr(method, "server_optimizer", None) is not None:
        return
    smoothness, step = lipschitz(experiment), largest_step(experiment.config, experiment.method)
    if smoothness is not None and step * smoothness > 1:
        log.warning(
            "method.step_size: %g is %.3g times 1/L = %.3g, L being the Lipschitz constant of the gradient; the theory's steps are below "
            "1/L, and above 2/L even plain gradient descent diverges. Set at most %.2g.",
            step,
            step * smoothness,
            1 / smoothness,
            1 / smoothness,
        )


def largest_step(config: Config, method: Method) -> float:
    """Return the largest γ_k of the run, or of a sample of its rounds."""
    return max(method.step(k) for k in range(0, config.rounds, max(1, config.rounds // _MAX_ROUNDS)))


def lipschitz(experiment: Experiment) -> float | None:
    """Return the Lipschitz constant L of the gradient of the mean loss, over at most 8192 samples; None if it is not known."""
    loss, data = experiment.oracle.loss, experiment.data
    smoothness = getattr(loss.model, "smoothness", None)
    if smoothness is None or not isinstance(data, ArrayData):
        return None
    features = data.features
    return float(smoothness(features[:: max(1, len(features) // _MAX_SAMPLES)])) + 2 * loss.l2
