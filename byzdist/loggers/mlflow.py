"""The logger for MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byzdist.host.optional import optional
from byzdist.loggers.base import LOGGERS, needs
from byzdist.words import flat


@LOGGERS.register("mlflow")
@needs("mlflow")
class MLflow:
    """A run in MLflow, at MLFLOW_TRACKING_URI, with the configuration's keys as parameters."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, experiment: str = "byzdist") -> None:
        module = optional("mlflow", "metrics.log: this needs", "byzdist[mlflow]")
        self._client = module.MlflowClient()
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self._run = self._client.create_run(number, run_name=config["name"]).info.run_id
        for key, value in flat(config).items():
            self._client.log_param(self._run, key, value)

    def __call__(self, round_: int, values: Mapping[str, float]) -> None:
        """Log a round."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=round_)

    def close(self, summary: Mapping[str, Any]) -> None:
        """End MLflow's run, as finished or failed."""
        ended = summary["status"] in ("finished", "stopped")
        self._client.set_terminated(self._run, "FINISHED" if ended else "FAILED")
