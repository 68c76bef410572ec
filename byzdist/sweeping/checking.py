"""Every run of a sweep is checked before any starts, as `byzdist check` checks one."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from byzdist.config.reading import parse
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.host.speech import say
from byzdist.runtime import advice
from byzdist.runtime.experiment import prepare
from byzdist.runtime.logging_out import check_loggers
from byzdist.sweeping.axes import Member, Sweep
from byzdist.sweeping.folder import check_same


@dataclass(frozen=True)
class Planned:
    """A run that can start: its folder's name, the settings that make it different, and its configuration."""

    name: str
    settings: Mapping[str, Any]
    tree: Mapping[str, Any]
    config: Config


class _Once(logging.Filter):
    """Lets each message through once: most runs of a sweep get the same advice."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self._said
        self._said.add(text)
        return is_new


def check_runs(sweep: Sweep, out: Path) -> list[Planned]:
    """Return the runs of a sweep, all of which can start or go on in this folder.

    This process must be able to fork afterwards, so it computes in one thread.

    Raises:
        ConfigError: naming the run, the key and the value.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("byzdist: warning: %(message)s"))
    handler.addFilter(_Once())
    logging.getLogger().addHandler(handler)
    torch.set_num_threads(1)
    for folder in (*map(os.path.abspath, sweep.folders), os.getcwd()):  # modules of the user's own
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        members = sweep.members()
        say(f"checking {len(members)} runs")
        return [_planned(member, out) for member in members]
    finally:
        logging.getLogger().removeHandler(handler)


def _planned(member: Member, out: Path) -> Planned:
    try:
        config = parse(member.tree)
        check_loggers(config)
        check_same(out / member.name, config)
        advice.of_run(prepare(config, torch.device("cpu")))
    except ConfigError as error:
        raise ConfigError(f"run {member.name}: {error}") from None
    except MemoryError as error:
        raise ConfigError(f"run {member.name}: data, model: they do not fit into memory: {error}") from None
    return Planned(member.name, member.settings, member.tree, config)


def transports(runs: Sequence[Planned]) -> dict[str, list[Planned]]:
    """Return the runs by their transport."""
    found: dict[str, list[Planned]] = {}
    for run in runs:
        found.setdefault(run.config.transport.name, []).append(run)
    return found
