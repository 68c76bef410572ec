"""What a user asks for with `byzdist run`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byzdist.config.reading import load, parse
from byzdist.config.schema import Config


@dataclass(frozen=True)
class RunCommand:
    """An experiment, and where its run goes.

    Attributes:
        path: the configuration's file; "-" is standard input.
        overrides: new values of its keys, as ``key=value``.
        out: the run's folder; None for a new one, named after the run and the time.
        local: a file with keys of the data section for this rank alone.
        resume: whether to continue from the last checkpoint in that folder.
        tree: the configuration itself; None if it comes from a file.
    """

    path: str
    overrides: Sequence[str] = ()
    out: Path | None = None
    resume: bool = False
    local: Path | None = None
    tree: Mapping[str, Any] | None = None

    def load(self) -> Config:
        """Return the configuration with its overrides.

        Raises:
            ConfigError: if it cannot be read, or is not valid.
        """
        if self.tree is not None:
            return parse(self.tree)
        return load(self.path, self.overrides, self.local)

    def words(self) -> list[str]:
        """Return the command line of a rank, which has the resolved configuration on its standard input."""
        return ["run", "-", "--out", str(self.out), *(["--resume"] if self.resume else [])]
