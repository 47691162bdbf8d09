"""The JSON-lines logger and the loggers of the configuration."""

import json

import pytest
from omegaconf import OmegaConf

from core.runtime import loggers
from core.runtime.errors import UserError
from core.runtime.loggers import JsonLinesLogger, make_loggers
from tests.core.tiny import CONFIGS


def test_lines_of_two_stages_share_a_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    JsonLinesLogger(path, "autoencoder").log_metrics({"loss": 0.5}, step=3)
    JsonLinesLogger(path, "diffusion").log_metrics({"loss": 0.25, "lr": 1e-3}, step=0)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"stage": "autoencoder", "step": 3, "loss": 0.5},
        {"stage": "diffusion", "step": 0, "loss": 0.25, "lr": 1e-3},
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "logger").glob("*.yaml")))
def test_each_configured_logger_writes_below_the_run(tmp_path, name):
    loggers = make_loggers(OmegaConf.load(CONFIGS / f"logger/{name}.yaml"), tmp_path)
    for logger in loggers:
        logger.log_metrics({"loss": 0.5}, step=0)
        logger.save()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert bool(written) == bool(loggers) == (name != "none")


def test_a_logger_whose_package_is_missing_is_refused_by_name(tmp_path, monkeypatch):
    def refuse(**options):
        raise ModuleNotFoundError("Requirement 'wandb>=0.12.10' not met.")

    monkeypatch.setattr(loggers, "instantiate", lambda config: refuse)
    with pytest.raises(UserError, match=r"WandbLogger .*wandb.*logger=tensorboard"):
        loggers.make_loggers({"_target_": "pytorch_lightning.loggers.WandbLogger"}, tmp_path)
