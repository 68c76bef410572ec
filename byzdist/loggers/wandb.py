"""The logger for Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byzdist.host.optional import optional
from byzdist.loggers.base import LOGGERS, needs


@LOGGERS.register("wandb")
@needs("wandb")
class WeightsAndBiases:
    """A run in Weights & Biases with the configuration and the summary; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, project: str = "byzdist") -> None:
        module = optional("wandb", "metrics.log: this needs", "byzdist[wandb]")
        self._run = module.init(
            project=project, name=config["name"], dir=str(folder), config=dict(config), reinit="create_new"
        )

    def __call__(self, round_: int, values: Mapping[str, float]) -> None:
        """Log a round."""
        self._run.log(dict(values), step=round_)

    def close(self, summary: Mapping[str, Any]) -> None:
        """Send the summary and end their run."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if summary["status"] in ("finished", "stopped") else 1)
