"""The checks of a configuration that need its registered pieces, or several keys at once, but no data."""

import logging

import torch

from byzdist.aggregation import PRE, RULES, Aggregator
from byzdist.attacks import ATTACKS
from byzdist.attacks.assignment import check_assignment, flipped
from byzdist.compression import COMPRESSORS
from byzdist.config import advice
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.methods import METHODS
from byzdist.participation import AVAILABILITY, read_trace
from byzdist.problem.data import DATASETS, check_split
from byzdist.problem.data import check as check_data
from byzdist.problem.models import MODELS
from byzdist.problem.tasks import TASKS
from byzdist.registry import Registry, Spec

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Check a configuration and complete its specs with their defaults, in place.

    Raises:
        ConfigError: naming the key.
    """
    _clients(config)
    for key, registry in (
        ("model", MODELS),
        ("method", METHODS),
        ("compression", COMPRESSORS),
    ):
        setattr(config, key, _complete(registry, getattr(config, key), key))
    config.clients.availability = _complete(AVAILABILITY, config.clients.availability, "clients.availability")
    config.aggregation.rule = _complete(RULES, config.aggregation.rule, "aggregation.rule")
    config.aggregation.pre = [
        _complete(PRE, step, f"aggregation.pre.{i}") for i, step in enumerate(config.aggregation.pre)
    ]
    Aggregator(config.aggregation.rule, config.aggregation.pre)  # a rule may name another one
    _data(config)
    _task(config)
    _attack(config)
    _method(config)
    _aggregation(config)
    _transport(config)
    _device(config)
    advice.of_config(config)


def _complete(registry: Registry, spec: Spec, key: str) -> Spec:  # type: ignore[type-arg]
    if not isinstance(spec.get("name"), str):
        raise ConfigError(f"{key}.name: this key is required. Known: {', '.join(registry)}.")
    given = {k: v for k, v in spec.items() if k != "name"}
    return {"name": registry.canonical(spec["name"], key), **registry.check(spec["name"], given, key)}


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


def _data(config: Config) -> None:
    if not isinstance(config.data.get("name"), str):
        raise ConfigError(f"data.name: this key is required. Known: {', '.join(DATASETS)}.")
    split = config.data.get("split", "shared")
    split = {"name": split} if isinstance(split, str) else split
    if not isinstance(split, dict) or not isinstance(split.get("name"), str):
        raise ConfigError(f"data.split: a split is a name or a mapping with a name (it is {split!r}).")
    data = check_data({k: v for k, v in config.data.items() if k != "split"})
    config.data = {**data, "split": check_split(split)}


def _task(config: Config) -> None:
    own = getattr(DATASETS.get(config.data["name"], "data"), "task", "classification")
    config.task = _complete(TASKS, config.task or {"name": own}, "task")
    if config.task["name"] != "classification" and flipped(config.attacks, config.clients.bad):
        raise ConfigError(
            "attack: label_flip takes class y for class L-1-y, and the targets of this task are not classes."
        )


def _method(config: Config) -> None:
    count = config.clients.count
    for key in ("cohort", "full_cohort"):
        size = config.method.get(key)
        if size is not None and size > count:
            raise ConfigError(
                f"method.{key}: {size} of {count} clients cannot be sampled; it is at most clients.count."
            )
    if config.method["name"] == "byz_vr_marina":
        for key, allowed in (("cohort", (None, count)), ("full_cohort", (None, count)), ("clip", ("none",))):
            if config.method[key] not in allowed:
                raise ConfigError(
                    f"method.{key}: byz_vr_marina is the case of all clients and no clipping; leave the key out "
                    "or use byz_vr_marina_pp."
                )
    if config.method.get("clip") == "none" and config.method.get("clip_max") != "none":
        raise ConfigError(
            "method.clip_max: it is a cap on the level of method.clip, which is none; give method.clip a number."
        )


def _plain_mean(config: Config) -> bool:
    return getattr(METHODS.get(config.method["name"]), "plain_mean", False)


def _aggregation(config: Config) -> None:
    """Check that the cohorts are large enough for the rule."""
    rule, pre, count = config.aggregation.rule, config.aggregation.pre, config.clients.count
    cohorts = {"full_cohort": config.method.get("full_cohort") or count}
    if not _plain_mean(config):
        cohorts["cohort"] = config.method.get("cohort") or count
    inner = rule.get("rule")
    for named in (rule, inner if isinstance(inner, dict) else {}):
        if named.get("name") == "monna" and named.get("pivot") is not None:
            raise ConfigError(
                "aggregation.rule.pivot: whose reply is which row depends on who is drawn, and there may be fewer; leave the key out."
            )
    together = Aggregator(rule, pre)
    left = {key: _left(together, size) for key, size in cohorts.items()}
    largest = max(cohorts.values())
    if config.clients.byzantine and largest > 1 and max(left.values()) == 1:
        raise ConfigError(
            f"aggregation.pre: of the largest cohort, {largest} clients, these steps leave one vector, a mean that one Byzantine "
            "client decides. Use smaller buckets or a larger cohort."
        )
    fewest = min(left, key=lambda key: left[key])
    if rule["name"] == "multi_krum" and (rule["selected"] or 0) > left[fewest]:
        raise ConfigError(
            f"aggregation.rule.selected: {rule['selected']} is more than the {left[fewest]} vectors of a cohort "
            f"(method.{fewest}: {cohorts[fewest]}); all of them would be averaged."
        )
    _breakdown(config, together, cohorts["full_cohort"])


def _breakdown(config: Config, together: Aggregator, size: int) -> None:
    """Refuse full rounds, which are not clipped, in which steps and rule tolerate fewer Byzantine clients than may be among them."""
    rule, possible = config.aggregation.rule, min(config.declared_byzantine, size)
    tolerated, alone = together.max_byzantine(size), Aggregator(rule).max_byzantine(size)
    if tolerated >= possible:
        if config.aggregation.allow_breakdown and possible:
            log.warning(
                "aggregation.allow_breakdown: steps and rule tolerate %d Byzantine ones of %d replies, so this is needed only to take full "
                "rounds in which replies are missing, at the price of what the attackers make of them. Leave it out.",
                tolerated,
                size,
            )
        return
    steps = " with the steps of aggregation.pre" if config.aggregation.pre else ""
    problem = (
        f"of the {size} replies of a full round (method.full_cohort) {rule['name']}{steps} tolerates {tolerated} Byzantine ones, and "
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


def _left(aggregator: Aggregator, vectors: int) -> int:
    for step, parameters in aggregator.pre:
        vectors = step.size(vectors, **parameters)
    return vectors


def _attack(config: Config) -> None:
    if not config.attacks:
        raise ConfigError("attack: the list is empty; leave the key out for clients that behave honestly.")
    checked = []
    for i, spec in enumerate(config.attacks):
        key = f"attack.{i}" if isinstance(config.attack, list) else "attack"
        own = {k: v for k, v in spec.items() if k not in ("clients", "rounds")}
        spec = {**_complete(ATTACKS, own, key), **check_assignment(spec, key, config.clients.bad)}
        attack = ATTACKS.get(spec["name"])
        if hasattr(attack, "on_labels") and "rounds" in spec:
            raise ConfigError(
                f"{key}.rounds: {spec['name']!r} changes a client's data for the whole run; leave the key out."
            )
        if hasattr(attack, "on_process") and config.transport.name == "local":
            raise ConfigError(
                f"{key}: {spec['name']!r} strikes the worker's process, and with transport.name=local there is one for all."
            )
        if hasattr(attack, "on_wire") and config.transport.name != "star":
            raise ConfigError(
                f"{key}: {spec['name']!r} breaks the wire format, which only the star survives; use transport.name=star."
            )
        if spec["name"] == "mimic" and spec["target"] != "worst" and spec["target"] not in config.clients.good:
            raise ConfigError(
                f"{key}.target: client {spec['target']} is not one of the good clients 0..{len(config.clients.good) - 1}; or take 'worst'."
            )
        checked.append(spec)
    config.attack = checked if isinstance(config.attack, list) else checked[0]
    flipped(config.attacks, config.clients.bad)


def _transport(config: Config) -> None:
    availability, cohort = config.clients.availability, config.method.get("cohort") or config.clients.count
    if availability["name"] == "trace":
        read_trace(availability["path"], config.clients.count)
    if config.transport.min_replies > cohort:
        raise ConfigError(
            f"transport.min_replies: {config.transport.min_replies} replies can never come from a cohort of {cohort} (method.cohort)."
        )


def _device(config: Config) -> None:
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {config.device!r} is wanted, but torch sees no GPU. Use auto or cpu.")
    _, _, index = config.device.partition(":")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"device: {config.device!r} is wanted, but torch sees {torch.cuda.device_count()} GPUs.")
