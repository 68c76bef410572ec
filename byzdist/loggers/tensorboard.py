"""The logger for TensorBoard, by torch's writer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byzdist.host.optional import optional
from byzdist.loggers.base import LOGGERS, needs


@LOGGERS.register("tensorboard")
@needs("tensorboard")
class TensorBoard:
    """Files for TensorBoard, in ``tensorboard`` within the run's folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        module = optional("torch.utils.tensorboard", "metrics.tensorboard: this needs", "byzdist[tensorboard]")
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, round_: int, values: Mapping[str, float]) -> None:
        """Log a round."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, round_)

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the rest and close the files."""
        self._writer.close()
