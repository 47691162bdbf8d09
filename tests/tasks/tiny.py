"""Configurations of small tasks for the tests of collecting and training."""

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from core.runtime.provenance import ROOT
from tasks.specification import TaskSpec

CHANNELS, CLASSES = 3, 4


def task_spec(cfg):
    return TaskSpec.from_config(OmegaConf.to_container(cfg.task, resolve=True))


def task_config(*overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("base", overrides=["trainer=cpu", *overrides])


def steps_config(*overrides):
    return task_config("task.collect.batch_size=8", "task.param.k=7", "task.collect.held_out=0", *overrides)


def independent_config(*overrides):
    small = ["task.model.name=test_resnet", "task.epochs=2", "task.batch_size=8"]
    return task_config("task/collect=independent", "task.collect.runs=3", "task.param.subset=all", *small, *overrides)
