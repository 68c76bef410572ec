"""`byzdist plan --tune`: a step size, a clip and a p, found by short runs under the configured attack.

The theorems' steps are hundreds of times smaller than what works, so the search starts at 1/L, above which even gradient descent
is at risk, and goes down. Of each step it tries clipping levels up to the largest that a minority cannot feed, λ = p/(2δ)·‖g‖; where a
method has no p, a quarter of ‖g‖, ‖g‖ and four times that. The candidates run for a few rounds each; the better ones go on to longer
runs, thrice, and the last with the lowest loss wins. The same configuration and seed give the same answer.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from byzdist.config.reading import load
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.methods import Method
from byzdist.methods.schedules import SCHEDULES, Step
from byzdist.planning import contradictions
from byzdist.planning.probe import Probed, in_this_process, probe
from byzdist.planning.rates import recommended_p
from byzdist.planning.subject import Options, Subject
from byzdist.runtime.advice import largest_step

_FACTORS = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64, 1 / 256)  # of 1/L
_LEVELS = (1 / 4, 1, 4)  # of ‖g‖, where nothing else bounds the level
_STAGES, _KEPT = (
    3,
    5,
)  # each stage has an equal share of the budget; one of so many candidates goes on, and at least two
_SHORTEST, _EVALUATIONS = 10, 4  # rounds of a short run, and how often it is evaluated after its start
_SAMPLES = 2048  # for the loss of models without closed forms
_WORSE = 2.0  # a candidate whose loss is ever above this times the larger of 1 and the loss at the start is out

Settings = Mapping[str, float]
"""New values by their keys, such as method.step_size."""


@dataclass(frozen=True)
class Tuned:
    """The result of a search.

    Attributes:
        settings: the new values.
        loss, before: the loss at the end of the longest short run, with these settings and as configured.
        rounds: of that run.
        tried: how many candidates there were.
    """

    settings: Settings
    loss: float
    before: float
    rounds: int
    tried: int

    def overrides(self) -> list[str]:
        """Return the settings as they are given on the command line."""
        return [f"{key}={value!r}" for key, value in self.settings.items()]


def tune(
    path: str,
    overrides: Sequence[str] = (),
    options: Options | None = None,
    *,
    budget: int | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Tuned:
    """Return the best settings that were found.

    Args:
        path: the configuration's file.
        overrides: new values of its keys.
        options: what the user knows of L.
        budget: rounds of all short runs together, but for the shortest that make sense; by default three times those of the run.
        say: is told what is tried.

    Raises:
        ConfigError: for a configuration that cannot run here, or whose loss cannot be measured here.
    """
    with contradictions.advice():
        subject = Subject.read(path, overrides, options or Options())
        if subject.experiment is None:
            raise ConfigError(f"--tune: {subject.absent}")
        if subject.experiment.is_private and subject.experiment.validation is None:
            raise ConfigError(
                "--tune: with data.where=worker the server measures nothing. Give it its own set: validation."
            )
        configured = dict(_as_configured(subject))
        candidates = [(configured, subject.config), *_allowed(path, overrides, _candidates(subject), configured)]
        return _race(subject, candidates, budget or 3 * subject.config.rounds, say)


def _race(
    subject: Subject, candidates: list[tuple[Settings, Config]], budget: int, say: Callable[[str], object]
) -> Tuned:
    """Let the candidates run for longer and longer, the first of them being the configuration as it is."""
    configured, tried, rounds, losses = candidates[0], len(candidates), 0, list[float]()
    for stage in range(_STAGES):
        if stage:
            candidates = candidates[: max(2, len(candidates) // _KEPT)]
        rounds = min(subject.config.rounds, max(_SHORTEST, budget // (_STAGES * len(candidates))))
        say(f"{len(candidates)} settings, {rounds} rounds each")
        losses = [_score(_short(subject, config, rounds)) for _, config in candidates]
        order = sorted(range(len(candidates)), key=losses.__getitem__)
        candidates, losses = [candidates[place] for place in order], [losses[place] for place in order]
    if not math.isfinite(losses[0]):
        raise ConfigError(
            "--tune: with every setting that was tried the loss grows, or is not a number. `byzdist plan` may say why."
        )
    if configured not in candidates:
        candidates.append(configured)
        losses.append(_score(_short(subject, configured[1], rounds)))
    return Tuned(candidates[0][0], losses[0], losses[candidates.index(configured)], rounds, tried)


def _short(subject: Subject, config: Config, rounds: int) -> Probed:
    """Return a short run of a candidate."""
    assert subject.experiment is not None
    samples = config.evaluate.samples
    if not subject.experiment.oracle.loss.in_closed_form:
        samples = min(samples or _SAMPLES, _SAMPLES)
    evaluate = config.evaluate.model_copy(update={"every": max(1, rounds // _EVALUATIONS), "samples": samples})
    return probe(in_this_process(config.model_copy(update={"rounds": rounds, "evaluate": evaluate})))


def _score(probed: Probed) -> float:
    """Return the mean of the last two losses; infinite for a run that failed or was ever much worse than at its start."""
    losses = probed.losses
    if probed.failure is not None or len(losses) < 2 or max(losses) > _WORSE * max(1.0, abs(losses[0])):
        return math.inf
    return (losses[-1] + losses[-2]) / 2


def _allowed(
    path: str, overrides: Sequence[str], candidates: Iterator[Settings], configured: Settings
) -> Iterator[tuple[Settings, Config]]:
    """Yield the candidates, each once, that the configuration's checks accept."""
    seen = [configured]
    for settings in candidates:
        if settings in seen:
            continue
        seen.append(settings)
        try:
            yield settings, load(path, [*overrides, *(f"{key}={value!r}" for key, value in settings.items())])
        except ConfigError:  # such as a clip for a method that has none
            continue


def _as_configured(subject: Subject) -> Iterator[tuple[str, float]]:
    assert subject.experiment is not None
    method = subject.experiment.method
    yield from _steps(subject, largest_step(subject.config, method)).items()
    if method.clip != "none":
        yield "method.clip", method.clip
    if (p := subject.parameter("p")) is not None:
        yield "method.p", p


def _candidates(subject: Subject) -> Iterator[Settings]:
    assert subject.experiment is not None
    method, curvature = subject.experiment.method, subject.curvature
    configured = largest_step(subject.config, method)
    L = 1 / configured if curvature is None else curvature.of_mean
    largest = (1 if subject.experiment.oracle.loss.declared.convex else 2) / L
    steps = {_down(largest * factor) for factor in _FACTORS} | {step for step in (configured,) if step <= largest}
    for step in sorted(steps, reverse=True):
        for p in _chances(subject):
            chance: Settings = {} if p is None else {"method.p": p}
            for clip in _clips(subject, method, step, p):
                level: Settings = {} if clip is None else {"method.clip": clip}
                yield {**_steps(subject, step), **level, **chance}


def _chances(subject: Subject) -> list[float | None]:
    """Return the p to try: the configured one, and the paper's."""
    configured, advised = subject.parameter("p"), recommended_p(subject)
    if configured is None:
        return [None]
    return [configured] if advised is None or _down(advised) == configured else [configured, _down(advised)]


def _clips(subject: Subject, method: Method, step: float, p: float | None) -> list[float | None]:
    """Return the values of method.clip to try with a step: levels that a minority cannot feed, down to what honest differences need."""
    needed = subject.config.clients.byzantine or subject.declared
    if method.clip == "none" and (not needed or not contradictions.is_unsafe(subject)):
        return [None]
    by_gradient = method.clip_reference == "gradient"
    levels = [level for level in _LEVELS]
    if p is not None and subject.declared:
        bound = p * subject.clients / (2 * subject.declared)
        levels = [bound, bound / 4]
        if subject.curvature is not None:
            levels += [level for level in (subject.curvature.smoothness * step,) if level < bound]
    clips: list[float | None] = [_down(level if by_gradient else level / step) for level in levels]
    return clips


def _steps(subject: Subject, step: float) -> dict[str, float]:
    """Return the settings that make ``step`` the largest step of the run: a number, or a schedule's own numbers in proportion."""
    assert subject.experiment is not None
    size = subject.experiment.method.step_size
    if not isinstance(size, Mapping):
        return {"method.step_size": step}
    factor = step / largest_step(subject.config, subject.experiment.method)
    parameters = SCHEDULES.parameters(size["name"], "method.step_size")
    scaled = [key for key, parameter in parameters.items() if parameter.annotation == Step and key in size]
    return {f"method.step_size.{key}": _down(size[key] * factor) if factor != 1 else size[key] for key in scaled}


def _down(value: float) -> float:
    """Return a number rounded down to three digits, so that it stays below its bound."""
    digits = 2 - math.floor(math.log10(value))
    return float(f"{math.floor(value * 10**digits * (1 + 1e-12)) / 10**digits:.3g}")
