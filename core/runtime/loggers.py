"""Lightning loggers of our own: the metrics of a run as JSON lines, one file for all stages."""

import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only


def make_loggers(config: Mapping[str, Any] | None, folder: Path) -> list[Logger]:
    """Return the logger of the `logger` configuration, writing below `folder`; none for an empty one."""
    return [instantiate(config)(save_dir=str(folder))] if config else []


class JsonLinesLogger(Logger):
    """Appends {"stage", "step", metric: value, …} lines to one file, readable without any library."""

    def __init__(self, path: Path, stage: str):
        super().__init__()
        self.path, self.stage = path, stage

    @property
    def name(self) -> str:
        """The stage."""
        return self.stage

    @property
    def version(self) -> str:
        """None: one file holds all stages."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run directory keeps the whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; what is not a finite number, which JSON does not know, as null."""
        known = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **known}) + "\n")
