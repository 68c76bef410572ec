"""How the server of a run measures its models."""

from byzdist.problem.evaluation import Evaluator, ValidationOnly
from byzdist.runtime.experiment import Experiment


def evaluator(experiment: Experiment, optimum: float | None = None) -> Evaluator | ValidationOnly | None:
    """Return what evaluates models: on the clients' data or, where those are private, on the server's own set if it has one.

    Args:
        experiment: the run's.
        optimum: min f, if it is known.
    """
    config, loss = experiment.config, experiment.oracle.loss
    if experiment.is_private:
        if experiment.validation is None:
            return None
        return ValidationOnly(loss, experiment.validation, samples=config.evaluate.samples, seed=config.seed)
    return Evaluator(
        loss,
        experiment.shared_data,
        experiment.dataset,
        config.clients.honest_ids,
        validation=experiment.validation,
        optimum=optimum,
        samples=config.evaluate.samples,
        seed=config.seed,
    )
