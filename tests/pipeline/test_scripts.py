"""Tests of the shell scripts as a user calls them, and of configurations as a user combines them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tasks.data.datasets import DATASETS
from tasks.networks.detectors import DETECTORS
from tasks.networks.diffusion_unets import UNETS
from tasks.networks.segmenters import SEGMENTERS
from tests.pipeline.conftest import TINY
from tests.tasks.archives import write_cifar100

ROOT = Path(__file__).parents[2]
# Configurations to build on, and the one whose dataset and network are functions of the user, name no dataset.
BASES = ("common", "photographs", "paper", "own")
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs/experiment").glob("*.yaml") if path.stem not in BASES)
EXPERIMENTS = [
    name
    for name in EXPERIMENTS
    if name.startswith("digits_") or "_" not in name or name in ("whole_network", "cifar100_resnet18_k200")
]  # test_catalogue.py composes all experiments
MODELS = sorted(path.stem for path in (ROOT / "configs/task/model").glob("*.yaml"))
TASKS = sorted(path.stem for path in (ROOT / "configs/task").glob("*.yaml") if path.stem not in BASES)


def test_the_headline_script_runs_cifar100_to_a_table(tmp_path):
    write_cifar100(tmp_path / "data", per_class=8)
    command = [
        "bash", str(ROOT / "cifar100_resnet18_k200.sh"), *TINY,
        "task.data.verify=false", f"task.data.root={tmp_path}/data", f"output_dir={tmp_path}/run",
        f"task.param.path={tmp_path}/checkpoints.safetensors", "task.collect.batch_size=8",
        "system.autoencoder.channels=[4,4,4,4]", "system.denoiser.channels=[4,8,4,1]",
        "system.schedule.num_timesteps=10", "system.sampler.num_steps=10",
        "evaluation.num_baselines=2", "evaluation.noise=[0.05]", "evaluation.finetune_steps=[2]",
    ]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}, timeout=500
    )
    assert result.returncode == 0, result.stderr[-2000:]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert [row["n"] for row in metrics["table"]][:3] == [6, 1, 5]
    assert all(f"{100 * row['accuracy_mean']:.2f}" in result.stdout for row in metrics["table"]), "no table is printed"


def test_without_data_the_script_names_the_folder_and_the_setting(tmp_path):
    command = [
        "bash",
        str(ROOT / "cifar100_resnet18_k200.sh"),
        "trainer=cpu",
        f"task.data.root={tmp_path}/nothing",
        f"task.param.path={tmp_path}/c.safetensors",
    ]
    # An unreachable proxy imitates a machine without a network, also on a machine that has one.
    env = {
        **os.environ,
        "PYTHON": sys.executable,
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200)
    assert result.returncode != 0
    (error,) = (line for line in result.stderr.splitlines() if "task.data.root=" in line)
    assert f"{tmp_path}/nothing" in error and "Traceback" not in result.stderr


def composed(*overrides: str):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("base", overrides=list(overrides))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_resolves(experiment):
    OmegaConf.to_container(composed(f"experiment={experiment}"), resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(
    "task, model", [*((task, "resnet18") for task in TASKS), *(("digits", model) for model in MODELS)]
)  # test_catalogue.py composes all pairs
def test_every_task_and_model_compose(task, model):
    cfg = composed(f"task={task}", f"task/model={model}")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    name, dataset = OmegaConf.load(ROOT / f"configs/task/model/{model}.yaml").name, cfg.task.data.dataset
    assert name in {*timm.list_models(), *SEGMENTERS, *DETECTORS, *UNETS}
    assert dataset in DATASETS and (dataset == task or task not in DATASETS)
    assert cfg.output_dir == f"outputs/{dataset}_{name}/ae_ddpm"
    assert cfg.task.param.path == f"param_data/{dataset}_{name}/checkpoints.safetensors"


def test_the_dataset_alone_moves_all_paths():
    cfg = composed("task=cifar100", "task.data.dataset=cifar10")
    assert cfg.task.param.path.startswith("param_data/cifar10_resnet18/")
    assert cfg.output_dir.startswith("outputs/cifar10_resnet18/")


def test_the_headline_experiment_has_the_networks_steps_and_rates_of_the_second_release():
    cfg = composed("experiment=cifar100_resnet18_k200")
    assert (cfg.task.data.dataset, cfg.task.model.name) == ("cifar100", "resnet18")
    assert (cfg.task.param.k, cfg.task.param.count) == (200, 2)
    assert cfg.system.autoencoder.channels == [64, 128, 256, 256, 32]
    assert list(cfg.system.denoiser.channels) == [2**power for power in (6, 7, 8, 9, 8, 7, 6, 0)]
    assert (cfg.system.autoencoder.input_noise, cfg.system.autoencoder.latent_noise) == (0.001, 0.1)
    assert OmegaConf.to_container(cfg.system.schedule) == {"num_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    assert (cfg.system.autoencoder.activation, cfg.system.autoencoder.second_linear) == ("leaky_relu", True)
    assert cfg.system.denoiser.learn_time and cfg.system.latent_normalization == "none" and cfg.system.ema_decay is None
    assert (cfg.system.autoencoder_steps, cfg.system.diffusion_steps, cfg.system.batch_size) == (500, 2000, 50)
    assert (cfg.system.autoencoder_optimizer.lr, cfg.system.denoiser_optimizer.lr) == (2e-5, 1e-4)
    assert cfg.system.sampler.num_steps == 1000
