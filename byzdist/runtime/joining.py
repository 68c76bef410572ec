"""What the server tells each worker that joins, and how the worker checks it."""

import hashlib
import json
from dataclasses import dataclass

from byzdist.config.reading import dump
from byzdist.config.schema import Config
from byzdist.errors import ConfigError, RunError
from byzdist.runtime import agreement
from byzdist.runtime.experiment import Experiment
from byzdist.storage.folder import RunFolder


@dataclass(frozen=True)
class JoinedRun:
    """The run that a worker takes part in.

    Attributes:
        run: the run's name.
        attempts: which attempt at the run this is, and which one took the checkpoint that it continues from.
        missing: the ranks whose part its checkpoint lacks.
    """

    run: str
    attempts: tuple[int, int | None]
    missing: list[int]


def introduction(experiment: Experiment, run: RunFolder) -> str:
    """Return what the workers are told: which experiment this is, where messages lie, and which run it goes on with."""
    facts = {
        "configuration": _digest(experiment.config),
        "links": experiment.links.type,
        "data": agreement.facts(experiment),
        "run": run.name,
        "attempts": run.attempts,
        "missing": run.missing,
    }
    return json.dumps(facts)


def _digest(config: Config) -> str:
    return hashlib.sha256(dump(config, paths=False).encode()).hexdigest()


class Joining:
    """Makes sure that a rank runs the server's experiment, and that the two can talk.

    Attributes:
        joined: the run, once the server has told of it.
    """

    def __init__(self, experiment: Experiment, rank: int) -> None:
        self._experiment, self._rank = experiment, rank
        self.joined: JoinedRun | None = None

    def hear(self, introduction: str) -> None:
        """Check and keep what the server tells, each time that the worker joins.

        Raises:
            ConfigError: if it is another experiment, or its messages lie elsewhere.
            RunError: if the server was started again after the worker joined.
        """
        experiment, rank, facts = self._experiment, self._rank, json.loads(introduction)
        joined = JoinedRun(facts["run"], tuple(facts["attempts"]), facts["missing"])
        if self.joined is not None and self.joined.attempts != joined.attempts:
            raise RunError(
                "the server was started again, and goes on from another point; start this worker again as well."
            )
        self.joined = joined
        if facts["configuration"] != _digest(experiment.config):
            raise ConfigError(
                f"the configuration of rank {rank} is not the server's; give every rank the same file and overrides."
            )
        links = experiment.links.type
        if facts["links"] != links:
            raise ConfigError(
                f"device: messages of rank {rank} lie in {links} memory, and the server's in {facts['links']} memory; give every rank "
                "a GPU of its own or none (device=cpu), or use transport.name=star."
            )
        agreement.compare(agreement.facts(experiment), facts["data"], rank)
