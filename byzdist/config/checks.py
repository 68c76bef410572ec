"""The checks of a configuration that need its registered pieces, or several sections at once, but no data."""

import logging
from collections.abc import Iterator
from typing import Any, get_args

from byzdist.aggregation import PRE, RULES, Aggregator
from byzdist.attacks import ATTACKS
from byzdist.attacks.assignment import ASSIGNED, check_assignment, flipped
from byzdist.compression import COMPRESSORS
from byzdist.config import advice
from byzdist.config.exchange import check_exchange
from byzdist.config.schema import Config, MetricsOut
from byzdist.errors import ConfigError
from byzdist.loggers import LOGGERS
from byzdist.methods import METHODS
from byzdist.participation import AVAILABILITY
from byzdist.problem.data import DATASETS, OURS, SPLITS, check_split
from byzdist.problem.loss import Buffers
from byzdist.problem.models import MODELS
from byzdist.problem.private_data import COMMON, is_private
from byzdist.problem.tasks import TASKS
from byzdist.registry import Registry, RunFacts, Spec
from byzdist.words import shown

log = logging.getLogger(__name__)
_MAX_PROCESSES = 256


def check(config: Config) -> Config:
    """Check a configuration and return it with its specs complete.

    Raises:
        ConfigError: naming the key.
    """
    _clients(config)
    clients, chosen = config.clients, config.aggregation
    availability = _complete(AVAILABILITY, clients.availability, "clients.availability")
    pre = [_complete(PRE, step, f"aggregation.pre.{i}") for i, step in enumerate(chosen.pre)]
    rule = _complete(RULES, chosen.rule, "aggregation.rule")
    method = _complete(METHODS, config.method, "method")
    config = config.model_copy(
        update={
            "model": _model(config),
            "method": method,
            "compression": _complete(COMPRESSORS, config.compression, "compression"),
            "clients": clients.model_copy(update={"availability": availability}),
            "aggregation": chosen.model_copy(update={"rule": rule, "pre": pre}),
            "data": _data(config, method),
            "task": _task(config),
            "validation": config.validation and _complete(DATASETS, config.validation, "validation"),
            "attack": _attack(config),
            "metrics": _metrics(config),
        }
    )
    _check_flips(config)
    _check_optimizer(config)
    _check_bias(config)
    _check_memory(config)
    _check_mask(config)
    together = Aggregator(rule, pre)  # a rule may name an inner rule
    facts = _facts(config, together)
    for registry, spec, key in _pieces(config):
        registry.check_run(spec, facts, key)
    _aggregation(config, together, facts)
    check_exchange(config)
    advice.of_config(config)
    return config


def _complete(registry: Registry[Any], spec: Spec, key: str) -> Spec:
    """Return a piece's complete spec; log it if the run's files use another name for the piece."""
    checked = registry.check(spec, key)
    registry.canonical(spec.name, key)
    return checked


def _pieces(config: Config) -> Iterator[tuple[Registry[Any], Spec, str]]:
    """Yield the specs of a complete configuration, and where they stand."""
    yield METHODS, config.method, "method"
    yield RULES, config.aggregation.rule, "aggregation.rule"
    for i, step in enumerate(config.aggregation.pre):
        yield PRE, step, f"aggregation.pre.{i}"
    yield COMPRESSORS, config.compression, "compression"
    for key, spec in _attack_entries(config):
        yield ATTACKS, spec.without(*ASSIGNED), key
    yield MODELS, config.model.without("buffers"), "model"
    assert config.task is not None
    yield TASKS, config.task, "task"
    if not is_private(config.data):
        yield DATASETS, config.data.without(*OURS), "data"
        yield SPLITS, config.data.parameters["split"].without("holders"), "data.split"
    if config.validation is not None:
        yield DATASETS, config.validation, "validation"
    yield AVAILABILITY, config.clients.availability, "clients.availability"


def _facts(config: Config, aggregator: Aggregator) -> RunFacts:
    sizes, method = config.method.parameters, METHODS.get(config.method.name)
    cohorts = {key: sizes.get(key) or config.clients.count for key in ("full_cohort", "cohort")}
    if getattr(method, "keeps_bank", False):
        cohorts["cohort"] = config.clients.count
    if getattr(method, "plain_mean", False):
        del cohorts["cohort"]
    vectors = {key: aggregator.left(size) for key, size in cohorts.items()}
    return RunFacts(config.clients.count, config.clients.byzantine, config.declared_byzantine, cohorts, vectors)


def _clients(config: Config) -> None:
    count = config.clients.count
    for key, number in (
        ("clients.byzantine", config.clients.byzantine),
        ("aggregation.declared_byzantine", config.declared_byzantine),
    ):
        if 2 * number >= count:
            raise ConfigError(
                f"{key}: {number} of {count} clients are not a minority; at most {(count - 1) // 2} can be."
            )
    if config.declared_byzantine < config.clients.byzantine:
        log.warning(
            "aggregation.declared_byzantine (%d) is below clients.byzantine (%d): outside the theory.",
            config.declared_byzantine,
            config.clients.byzantine,
        )


def _data(config: Config, method: Spec) -> Spec:
    """Return the data section complete, its split with it."""
    where = config.data.parameters.get("where", "shared")
    if where == "worker":
        return _private(config, method)
    if where != "shared":
        raise ConfigError(
            f"data.where: data lie with every rank ('shared') or with the clients' workers ('worker'), not {where!r}."
        )
    data = _complete(DATASETS, config.data.without(*OURS, "where"), "data").plus(**_processes(config))
    given = config.data.parameters.get("split", "shared")
    split = Spec.of(given) if isinstance(given, str | dict) else Spec("")
    if not split.name:
        raise ConfigError(f"data.split: a split is a name or a mapping with a name (it is {given!r}).")
    SPLITS.canonical(split.name, "data.split")  # logs it if this is an alias
    return data.plus(split=check_split(split))


def _processes(config: Config) -> dict[str, int]:
    """Return the number of processes that read ahead, if the section has it."""
    given = config.data.parameters
    if "workers" not in given:
        return {}
    if type(given["workers"]) is not int or not 0 <= given["workers"] <= _MAX_PROCESSES:
        raise ConfigError(
            f"data.workers: how many processes of each rank read data ahead is 0 to {_MAX_PROCESSES} (it is {shown(given['workers'])})."
        )
    return {"workers": given["workers"]}


def _model(config: Config) -> Spec:
    """Return the model section complete, with its policy for buffers if it has one."""
    model = _complete(MODELS, config.model.without("buffers"), "model")
    if "buffers" not in config.model.parameters:
        return model
    buffers, policies = config.model.parameters["buffers"], get_args(Buffers)
    if buffers not in policies:
        raise ConfigError(
            f"model.buffers: should be {', '.join(policies[:-1])} or {policies[-1]} (it is {shown(buffers)})."
        )
    return model.plus(buffers=buffers)


def _private(config: Config, method: Spec) -> Spec:
    """Return the data section of private data. Workers check the parameters of the function, because only they call it."""
    data, own_model = config.data.plus(**_processes(config)), ":" in config.model.name
    given = data.parameters
    if ":" not in data.name:
        raise ConfigError(
            f"data.name: {data.name!r} with data.where=worker; private data come from a function of your own, 'module:name'."
        )
    if "split" in given:
        raise ConfigError(
            "data.split: with data.where=worker each client has data of its own, and nothing is dealt out."
        )
    for key in ("features", "outputs"):
        if key not in given and not own_model:
            raise ConfigError(
                f"data.{key}: the server knows the model, never the data: give "
                + ("the shape of a sample's features, such as [12]." if key == "features" else "the number of outputs.")
            )
    sizes = given.get("features", [1])
    sizes = sizes if isinstance(sizes, list) and sizes else [sizes]
    for key, size in [*(("features", size) for size in sizes), *((k, given[k]) for k in COMMON[2:] if k in given)]:
        if type(size) is not int or size < 1:
            raise ConfigError(f"data.{key}: {size!r} is not a whole number of at least 1.")
    if "samples" not in given and method.parameters.get("p", 0) is None:
        raise ConfigError(
            "method.p: its default depends on how many samples a client has, which with data.where=worker nobody but the client "
            "knows. Set it, or data.samples."
        )
    if config.evaluate.samples is not None and config.validation is None:
        raise ConfigError("evaluate.samples: with data.where=worker clients evaluate, each on all its samples.")
    if flipped(config.attacks, config.clients.byzantine_ids) and "outputs" not in given:
        raise ConfigError(
            "data.outputs: label_flip takes class y for class L-1-y, and L, the number of outputs, is not given."
        )
    return data


def _metrics(config: Config) -> MetricsOut:
    """Return the metrics section with its loggers checked and complete."""
    several = isinstance(config.metrics.log, list)
    checked = [
        _complete(LOGGERS, spec, f"metrics.log.{i}" if several else "metrics.log")
        for i, spec in enumerate(config.metrics.loggers)
    ]
    return config.metrics.model_copy(update={"log": checked if several else checked[0]})


def _task(config: Config) -> Spec:
    """Return the task: the configured one, or else the data set's."""
    if is_private(config.data):
        return _complete(TASKS, config.task or Spec("classification"), "task")
    own = getattr(DATASETS.get(config.data.name, "data"), "task", "classification")
    return _complete(TASKS, config.task or Spec(own), "task")


def _check_flips(config: Config) -> None:
    assert config.task is not None
    if flipped(config.attacks, config.clients.byzantine_ids) and config.task.name != "classification":
        raise ConfigError("attack: label_flip takes class y for class L-1-y, and the task's targets are not classes.")


def _check_optimizer(config: Config) -> None:
    """Refuse attacks that compute g from x^k - x^{k-1}, which a server optimizer changes."""
    if config.method.parameters.get("server_optimizer") is None:
        return
    for spec in config.attacks:
        if hasattr(ATTACKS.get(spec.name), "knows_estimate"):
            raise ConfigError(
                f"attack: {spec.name!r} reads the server's estimate off its steps, which method.server_optimizer changes."
            )


def _check_bias(config: Config) -> None:
    """Refuse a biased compressor with a method whose estimate it would bias."""
    method, compression = METHODS.get(config.method.name), COMPRESSORS.get(config.compression.name)
    if getattr(compression, "unbiased", True) or getattr(method, "allows_biased", False):
        return
    raise ConfigError(
        f"compression: {config.compression.name!r} is biased, and {config.method.name} needs an unbiased compressor, such as rand_k, "
        "or error feedback: compression={name: error_feedback, compressor: ...}."
    )


def _check_memory(config: Config) -> None:
    """Refuse a compressor with a memory for a method whose copies must equal what the server decodes."""
    method, compression = METHODS.get(config.method.name), COMPRESSORS.get(config.compression.name)
    if getattr(method, "keeps_copies", False) and getattr(compression, "remembers", False):
        raise ConfigError(
            f"compression: {config.method.name} corrects what a compressor leaves out, so it cannot use {config.compression.name!r}. "
            "Name the compressor alone, such as top_k or rand_k."
        )


def _check_mask(config: Config) -> None:
    """Refuse compressors that send different coordinates for each client if the method needs one mask for all."""
    name, parameters = config.compression.name, config.compression.parameters
    if not getattr(METHODS.get(config.method.name), "needs_common_mask", False) or name == "identity":
        return
    if name != "rand_k" or parameters["support"] != "shared":
        raise ConfigError(
            f"compression: {config.method.name} needs one mask for all clients: compression={{name: rand_k, ratio: ..., support: shared}}, "
            "or identity."
        )


def _aggregation(config: Config, together: Aggregator, facts: RunFacts) -> None:
    """Check that the cohorts are large enough for the rule."""
    largest = max(facts.cohorts.values())
    if config.clients.byzantine and largest > 1 and max(facts.vectors.values()) == 1:
        raise ConfigError(
            f"aggregation.pre: of the largest cohort, {largest} clients, these steps leave one vector, a mean that one Byzantine "
            "client decides. Use smaller buckets or a larger cohort."
        )
    _breakdown(config, together, facts.cohorts["full_cohort"])


def _breakdown(config: Config, together: Aggregator, size: int) -> None:
    """Refuse full rounds, which are not clipped, in which steps and rule do not tolerate all Byzantine clients that may take part."""
    rule, possible = config.aggregation.rule, min(config.declared_byzantine, size)
    tolerated, alone = together.max_byzantine(size), Aggregator(rule).max_byzantine(size)
    if tolerated >= possible:
        if config.aggregation.allow_breakdown and possible:
            log.warning(
                "aggregation.allow_breakdown: steps and rule tolerate %d Byzantine ones of %d replies, so this is needed only to take full "
                "rounds in which replies are missing, in which attackers can then decide. Leave it out.",
                tolerated,
                size,
            )
        return
    steps = " with the steps of aggregation.pre" if config.aggregation.pre else ""
    problem = (
        f"of the {size} replies of a full round (method.full_cohort) {rule.name}{steps} tolerates {tolerated} Byzantine ones, and "
        f"{possible} may be among them. Full rounds are not clipped: one with too many undoes everything."
    )
    if config.aggregation.allow_breakdown:
        log.warning("aggregation.allow_breakdown: %s", problem)
        return
    remedies = [f"leave out the steps (it then tolerates {alone})" if alone >= possible else "use another rule"]
    if size < config.clients.count:
        remedies.append("raise method.full_cohort")
    remedies.append(f"declare at most {tolerated} (aggregation.declared_byzantine)")
    raise ConfigError(
        f"aggregation: {problem} Either {', or '.join(remedies)}; aggregation.allow_breakdown=true runs it as it is."
    )


def _attack_entries(config: Config) -> list[tuple[str, Spec]]:
    """Return each entry of ``attack`` with its key."""
    several = isinstance(config.attack, list)
    return [(f"attack.{i}" if several else "attack", spec) for i, spec in enumerate(config.attacks)]


def _attack(config: Config) -> Spec | list[Spec]:
    """Return ``attack`` complete."""
    if not config.attacks:
        raise ConfigError("attack: the list is empty; leave the key out for clients that behave honestly.")
    checked = []
    for key, entry in _attack_entries(config):
        assigned = check_assignment(entry, key, config.clients.byzantine_ids)
        spec = _complete(ATTACKS, entry.without(*ASSIGNED), key).plus(**assigned)
        attack = ATTACKS.get(spec.name)
        if hasattr(attack, "on_labels") and "rounds" in assigned:
            raise ConfigError(
                f"{key}.rounds: {spec.name!r} changes a client's data for the whole run; leave the key out."
            )
        if hasattr(attack, "on_process") and config.transport.name == "local":
            raise ConfigError(
                f"{key}: {spec.name!r} strikes the worker's process, and with transport.name=local there is one for all."
            )
        if hasattr(attack, "on_wire") and config.transport.name != "star":
            raise ConfigError(
                f"{key}: {spec.name!r} breaks the wire format, which only the star survives; use transport.name=star."
            )
        checked.append(spec)
    return checked if isinstance(config.attack, list) else checked[0]
