"""`byzdist plan`: everything about a configuration that can be said before it trains."""

from collections.abc import Sequence
from dataclasses import dataclass

from byzdist.config.schema import Config
from byzdist.planning import contradictions, costs, participation, rates
from byzdist.planning.page import Section, as_json, page
from byzdist.planning.probe import Probed, in_this_process, probe
from byzdist.planning.subject import Options, Subject
from byzdist.runtime import advice

_PROBED, _PATIENCE = 24, 5.0  # rounds of a probe, and seconds after which it ends early


@dataclass(frozen=True)
class Plan:
    """The page in parts: a title, sections and warnings."""

    title: str
    sections: list[Section]
    warnings: list[str]

    def text(self) -> str:
        """Return the page."""
        return page(self.title, self.sections, self.warnings)

    def json(self) -> str:
        """Return the page as JSON."""
        return as_json(self.title, self.sections, self.warnings)


def plan(path: str, overrides: Sequence[str] = (), options: Options | None = None) -> Plan:
    """Return the plan of a configuration; nothing is written.

    Raises:
        ConfigError: for anything that `byzdist run` would refuse, except absent data.
    """
    with contradictions.collected_warnings() as advised:
        subject = Subject.read(path, overrides, options or Options())
        sections = [participation.section(subject)]
        experiment = subject.experiment
        if experiment is not None:
            advice.of_run(experiment)
    with contradictions.collected_warnings():  # those of short runs are not about this one
        sections.append(rates.section(subject))
        if experiment is not None:
            sections.append(costs.section(subject, experiment, _probed(subject)))
    unknown = ""
    if subject.absent:
        unknown = f"{subject.absent} So everything that needs d, m or a gradient is left out."
    elif experiment is not None and experiment.is_private:
        unknown = "The data lie with the workers (data.where=worker): L, μ, ζ² and time are left out."
    if unknown:
        sections.append(Section("absent", "What is not known", notes=[unknown]))
    return Plan(_title(subject.config), sections, advised + contradictions.warnings(subject))


def _title(config: Config) -> str:
    rule = "+".join([*(step.name for step in config.aggregation.pre), config.aggregation.rule.name])
    return f"{config.name}: {config.method.name}, {rule}, {config.compression.name}, {config.rounds:,} rounds"


def _probed(subject: Subject) -> Probed | None:
    experiment = subject.experiment
    if not subject.options.probes or experiment is None or experiment.is_private:
        return None
    rounds = min(_PROBED, subject.config.rounds)
    evaluate = subject.config.evaluate.model_copy(update={"every": rounds})
    config = subject.config.model_copy(update={"rounds": rounds, "evaluate": evaluate})
    return probe(in_this_process(config), patience=_PATIENCE)
