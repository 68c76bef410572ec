"""`byzdist check`: all that `byzdist run` checks before it starts, and what the defaults became."""

from collections.abc import Sequence

import torch

from byzdist.config.reading import dump, load
from byzdist.errors import ConfigError
from byzdist.registry import Spec
from byzdist.runtime import advice
from byzdist.runtime.experiment import Experiment, prepare


def rehearse(path: str, overrides: Sequence[str] = ()) -> str:
    """Return the complete configuration as YAML, below a comment that sums it up; start nothing.

    Raises:
        ConfigError: for anything that `byzdist run` would refuse.
    """
    config = load(path, overrides)
    try:
        experiment = prepare(config, torch.device("cpu"))
    except MemoryError as error:
        raise ConfigError(f"data, model: they do not fit into memory: {error}") from None
    advice.of_run(experiment)
    settled = {key: getattr(experiment.method, key, value) for key, value in config.method.parameters.items()}
    complete = config.model_copy(update={"method": Spec(config.method.name, settled)})
    return "\n".join([*(f"# {line}" for line in _summary(experiment)), dump(complete).rstrip()])


def _summary(experiment: Experiment) -> list[str]:
    config, data, split = experiment.config, experiment.dataset, experiment.split
    clients = range(config.clients.count)
    if experiment.is_private:
        return [
            f"{config.name}: a run can start with this.",
            f"clients: {len(clients)}, {config.clients.byzantine} of them Byzantine",
            f"data: each client's own, by {config.data.name} in its worker, which this command does not call",
            *_rest(experiment),
        ]
    held = [split.size(client) for client in clients]
    shape = " x ".join(map(str, data.feature_shape))
    tested = "" if data.test_labels is None else f", {len(data.test_labels)} test samples"
    if experiment.validation is not None:
        tested = f", {len(experiment.validation.labels)} samples for validation"
    share = f"{held[0]} samples" if min(held) == max(held) else f"{min(held)} to {max(held)} samples"
    return [
        f"{config.name}: a run can start with this.",
        f"clients: {len(clients)}, {config.clients.byzantine} of them Byzantine; each holds {share}",
        f"data: {len(data.labels)} samples of {shape} features, {data.classes} classes{tested}",
        *_rest(experiment),
    ]


def _rest(experiment: Experiment) -> list[str]:
    config, method = experiment.config, experiment.method
    return [
        f"model: {experiment.oracle.dimension} parameters in {config.dtype}",
        f"rounds: {config.rounds}; a sampled round asks {method.cohort} clients, a full one {method.full_cohort}",
    ]
