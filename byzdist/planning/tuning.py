"""`byzdist plan --tune`: a step size, a clip and a p, found by short runs under the configured attack.

The theorems' steps are far smaller than what works, so the search starts at 1/L, above which even gradient descent
is at risk, and goes down. With each step it tries clipping levels up to the largest that a minority cannot feed, λ = p/(2δ)·‖g‖; if a
method has no p, a quarter of ‖g‖, ‖g‖ and four times that. The candidates run for a few rounds each, the better ones for longer, and
the best of these with its neighbours for longest; the lowest loss wins. A candidate whose replies are nearly all clipped in most rounds
comes after all others, because its estimate cannot follow the gradient. The same configuration and seed give the same answer.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

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
_STAGES = 3  # each has an equal share of the budget
_KEPT = 5  # of this many candidates one goes on to the next stage; at least two do in all
_NEIGHBOURS = (1.5, 1 / 1.5)  # times the best step, in the last stage
_SHORTEST, _EVALUATIONS = 10, 4  # rounds of a short run, and how often it is evaluated after its start
_SAMPLES = 2048  # for the loss of models without closed forms
_WORSE = 2.0  # a candidate whose loss is ever above this times the larger of 1 and the loss at the start is out

Settings = Mapping[str, float]
"""New values by their keys, such as method.step_size."""
Candidate = tuple[Settings, Config]


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
        budget: rounds of all short runs together, by default three times those of the run; each short run has at least ten.
        say: called with a line about what is tried.

    Raises:
        ConfigError: for a configuration that cannot run here, or whose loss cannot be measured here.
    """
    with contradictions.collected_warnings():
        subject = Subject.read(path, overrides, options or Options())
        if subject.experiment is None:
            raise ConfigError(f"--tune: {subject.absent}")
        if subject.experiment.is_private and subject.experiment.validation is None:
            raise ConfigError(
                "--tune: with data.where=worker the server measures nothing. Give it its own set: validation."
            )
        configured: Settings = dict(_as_configured(subject))
        allowed = partial(_allowed, path, overrides, seen=[configured])
        candidates = [(configured, subject.config), *allowed(_candidates(subject))]
        return _race(subject, candidates, allowed, budget or 3 * subject.config.rounds, say)


def _race(
    subject: Subject,
    candidates: list[Candidate],
    allowed: Callable[[Iterable[Settings]], Iterable[Candidate]],
    budget: int,
    say: Callable[[str], object],
) -> Tuned:
    """Let the candidates run for longer and longer; the first one is the configuration as it is.

    ``allowed`` makes candidates of settings, as far as the configuration accepts them.
    """
    configured, tried, rounds, results = candidates[0], 0, 0, list[Probed]()
    for stage in range(_STAGES):
        if stage:
            candidates = candidates[: max(2, len(candidates) // _KEPT)]
        if stage == _STAGES - 1:
            candidates += allowed(_neighbours(subject, candidates[0][0]))
        tried = max(tried, len(candidates))
        rounds = min(subject.config.rounds, max(_SHORTEST, budget // (_STAGES * len(candidates))))
        say(f"{len(candidates)} settings, {rounds} rounds each")
        results = [_short(subject, config, rounds) for _, config in candidates]
        order = sorted(range(len(candidates)), key=lambda place: _rank(results[place]))
        candidates, results = [candidates[place] for place in order], [results[place] for place in order]
    if not math.isfinite(_score(results[0])):
        raise ConfigError(
            "--tune: with every setting that was tried the loss grows, or is not a number. `byzdist plan` may say why."
        )
    if configured not in candidates:
        candidates.append(configured)
        results.append(_short(subject, configured[1], rounds))
    before = _score(results[candidates.index(configured)])
    return Tuned(candidates[0][0], _score(results[0]), before, rounds, tried)


def _neighbours(subject: Subject, best: Settings) -> Iterator[Settings]:
    """Yield settings with other steps, at the same level λ/‖g‖ where a level follows the step."""
    steps = [key for key in best if key.startswith("method.step_size")]
    if not steps:
        return
    assert subject.experiment is not None
    configured = largest_step(subject.config, subject.experiment.method)
    step = configured * best[steps[0]] / _steps(subject, configured)[steps[0]]
    for factor in _NEIGHBOURS:
        if step * factor > _largest(subject):
            continue
        changed = {**best, **{key: _down(best[key] * factor) for key in steps}}
        if "method.clip" in best and subject.parameter("clip_reference") == "step":
            changed["method.clip"] = _down(best["method.clip"] / factor)
        yield changed


def _largest(subject: Subject) -> float:
    """Return the largest step to try: 1/L, or twice that for a model that is not convex, whose L is only known at x^0."""
    assert subject.experiment is not None
    if subject.curvature is None:
        return largest_step(subject.config, subject.experiment.method)
    return (1 if subject.experiment.oracle.loss.declared.convex else 2) / subject.curvature.of_mean


def _rank(probed: Probed) -> tuple[bool, bool, float]:
    """Return by what candidates are put in order."""
    score = _score(probed)
    return not math.isfinite(score), probed.clipped > 0.5, score


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
    path: str, overrides: Sequence[str], settings: Iterable[Settings], seen: list[Settings]
) -> Iterator[Candidate]:
    """Yield the candidates with these settings, each once, that the configuration's checks accept."""
    for each in settings:
        if each in seen:
            continue
        seen.append(each)
        try:
            config = load(path, [*overrides, *(f"{key}={value!r}" for key, value in each.items())])
        except ConfigError:  # such as a clip for a method that has none
            continue
        yield each, config


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
    method, largest = subject.experiment.method, _largest(subject)
    configured = largest_step(subject.config, method)
    steps = {_down(largest * factor) for factor in _FACTORS} | {step for step in (configured,) if step <= largest}
    if not _steps(subject, configured):  # a schedule of the user's own, whose numbers may be anything
        steps = {configured}
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
    levels = list(_LEVELS)
    if p is not None and subject.declared:
        bound = p * subject.clients / (2 * subject.declared)
        levels = [bound, bound / 4]
        if subject.curvature is not None and subject.curvature.smoothness * step < bound:
            levels.append(subject.curvature.smoothness * step)
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
