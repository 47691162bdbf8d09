"""Loggers of training metrics: the configured one, and the JSON lines that every run writes."""

import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from core.runtime.errors import UserError


def make_loggers(config: Mapping[str, Any] | None, folder: Path) -> list[Logger]:
    """Return the logger of the `logger` configuration, which writes below `folder`; an empty list for logger=none.

    Raises:
        UserError: A package that the logger needs is not installed.
    """
    if not config:
        return []
    try:
        return [instantiate(config)(save_dir=str(folder))]
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"logger._target_={config['_target_']} cannot be used ({reason}). Install its package, or set "
            "logger=tensorboard"
        ) from error


class JsonLinesLogger(Logger):
    """A logger that appends one line {"stage": …, "step": …, metric: value, …} per step to a file for all stages."""

    def __init__(self, path: Path, stage: str):
        super().__init__()
        self.path, self.stage = path, stage

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.stage

    @property
    def version(self) -> str:
        """An empty string, because one file holds all stages and sessions."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because the run directory holds the whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; write NaN and infinity as null, because JSON does not have them."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **finite}) + "\n")
