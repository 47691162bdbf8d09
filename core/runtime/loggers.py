"""Lightning loggers of our own: the metrics of a run as JSON lines, one file for all stages."""

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only


def make_loggers(config: DictConfig, folder: Path) -> list[Logger]:
    """The logger of the `logger` configuration, writing below `folder`; none for an empty one."""
    return [instantiate(config)(save_dir=str(folder))] if config else []


class JsonLinesLogger(Logger):
    """Appends {"stage", "step", metric: value, …} lines to one file, readable without any library."""

    def __init__(self, path: Path, stage: str):
        super().__init__()
        self.path, self.stage = path, stage

    @property
    def name(self) -> str:
        return self.stage

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run directory keeps the whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; what is not a finite number, which JSON does not know, as null."""
        metrics = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **metrics}) + "\n")
