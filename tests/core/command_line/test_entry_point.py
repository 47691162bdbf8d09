"""The end of a command: one line after a mistake, status 130 after Ctrl-C, a traceback only after a bug."""

import os

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset

from core.command_line.entry_point import convert_group_override, entry_point
from core.runtime.errors import UserError
from tests.core.tiny import StopAfter, cpu_trainer

CONFIG = {"trainer": {"accelerator": "cpu"}}


def outcome(main, config=CONFIG) -> str | int:
    """Return the exit status or the error message of the process."""
    with pytest.raises(SystemExit) as stop:
        entry_point(main)(OmegaConf.create(config))
    return stop.value.code


def test_a_mistake_ends_in_one_sentence():
    def main(cfg):
        raise UserError("k=1 is too few; give 2 or more")

    assert outcome(main) == "error: k=1 is too few; give 2 or more"


def test_a_mistake_found_by_a_constructor_that_the_configuration_names_is_the_same_sentence():
    def main(cfg):
        instantiate({"_target_": "core.networks.autoencoder.ConvAutoencoder", "kernel_size": 4}, num_params=10)

    sentence = outcome(main)
    assert sentence.startswith("error: ") and "kernel_size=4" in sentence and "\n" not in sentence


def test_an_argument_that_a_class_of_the_configuration_does_not_take_is_named_with_the_class():
    def main(cfg):
        instantiate({"_target_": "core.networks.autoencoder.ConvAutoencoder", "kernal_size": 3}, num_params=10)

    sentence = outcome(main)
    assert (
        sentence.startswith("error: ")
        and "ConvAutoencoder" in sentence
        and "'kernal_size'" in sentence
        and "\n" not in sentence
    )


class Refusing(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise UserError("image 3.jpg cannot be read; remove it")


def test_a_mistake_found_in_a_process_that_loads_images_is_the_same_sentence():
    assert (
        outcome(lambda cfg: list(DataLoader(Refusing(), num_workers=1)))
        == "error: image 3.jpg cannot be read; remove it"
    )


def test_a_value_that_does_not_resolve_ends_in_one_sentence():
    sentence = outcome(lambda cfg: None, {**CONFIG, "a": "${nowhere}"})
    assert sentence.startswith("error: ") and "nowhere" in sentence and "\n" not in sentence


def test_the_configuration_arrives_resolved():
    seen = {}
    entry_point(lambda cfg: seen.update(OmegaConf.to_container(cfg)))(
        OmegaConf.create({**CONFIG, "seed": "${system.batch_size}", "system": {"batch_size": 3}})
    )
    assert seen["seed"] == 3


def test_ctrl_c_ends_in_status_130():
    def main(cfg):
        raise KeyboardInterrupt

    assert outcome(main) == 130


def test_ctrl_c_inside_a_fit_ends_in_status_130(keep_signals):
    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).mean()

        def configure_optimizers(self):
            return optim.SGD(self.parameters(), lr=0.1)

    def main(cfg):
        trainer = cpu_trainer(StopAfter(1, KeyboardInterrupt))(
            callbacks=[], max_epochs=1, logger=False, enable_checkpointing=False
        )
        trainer.fit(Module(), torch.ones(2, 1, 1))

    assert outcome(main) == 130


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), SystemExit(7)])
def test_everything_else_passes_through(error):
    def main(cfg):
        raise error

    with pytest.raises(type(error)) as raised:
        entry_point(main)(OmegaConf.create(CONFIG))
    assert raised.value is error


@pytest.mark.parametrize("word, expected", [
    ("task.model=vit_tiny", "task/model=vit_tiny"),
    ("task.collect=independent", "task/collect=independent"),
    ("system.autoencoder=paper", "system/autoencoder=paper"),
    ("task.model=resnet18,vit_tiny", "task/model=resnet18,vit_tiny"),
    ("task.model=resnet81", "task/model=resnet81"),  # so that the error lists the choices of the group
    ("task.model.name=vit_tiny", "task.model.name=vit_tiny"),
    ("task.collect.runs=20", "task.collect.runs=20"),
    ("task/model=vit_tiny", "task/model=vit_tiny"),
    ("task.epochs=3", "task.epochs=3"),
    ("system.sampler={num_steps:3}", "system.sampler={num_steps:3}"),
    ("task=digits", "task=digits"),
    ("seed=1,2", "seed=1,2"),
    ("-m", "-m"),
    ("task.model=", "task.model="),
])  # fmt: skip
def test_a_choice_of_a_group_may_be_given_with_dots(word, expected):
    assert convert_group_override(word) == expected


@pytest.mark.parametrize("devices", [[1], -1, 0, "0,1", True])
def test_devices_are_a_number_so_that_it_can_be_recorded(devices):
    config = {"trainer": {"accelerator": "cpu", "devices": devices, "strategy": "ddp_spawn"}}
    sentence = outcome(lambda cfg: None, config)
    assert sentence.startswith(f"error: trainer.devices={devices} is invalid: ") and "auto" in sentence


@pytest.mark.parametrize("trainer", [{"devices": 2}, {"devices": "auto", "strategy": "auto"}])
def test_several_devices_need_the_strategy_whose_processes_end_with_the_training(trainer):
    config = {"trainer": {"accelerator": "cpu", **trainer}}
    sentence = outcome(lambda cfg: None, config)
    assert sentence.startswith(f"error: trainer.devices={trainer['devices']} is invalid")
    assert "trainer=ddp" in sentence and "CUDA_VISIBLE_DEVICES" in sentence
    entry_point(lambda cfg: None)(OmegaConf.create({"trainer": {**config["trainer"], "strategy": "ddp_spawn"}}))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_16_bits_need_a_gpu(precision):
    config = {"trainer": {"accelerator": "cpu", "precision": precision}}
    sentence = outcome(lambda cfg: None, config)
    assert sentence.startswith(f"error: trainer.precision={precision} needs a GPU") and "=tf32" in sentence


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "transformer-engine", 16, None])
def test_a_precision_that_would_cast_the_network_for_good_is_refused_before_anything_starts(precision):
    config = {"trainer": {"accelerator": "cpu", "precision": precision}}
    sentence = outcome(lambda cfg: None, config)
    assert sentence.startswith(f"error: trainer.precision={precision} is invalid: ")
    assert "tf32, 32-true, bf16-mixed, 16-mixed" in sentence


@pytest.mark.parametrize("asked, on, warns", [(True, True, False), ("warn", True, True), (False, False, False)])
def test_deterministic_covers_the_whole_command(monkeypatch, asked, on, warns):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []

    def main(cfg):
        seen.extend(
            [torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()]
        )
        seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))

    try:
        entry_point(main)(OmegaConf.create({"trainer": {"accelerator": "cpu", "deterministic": asked}}))
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [on, warns, ":4096:8" if on else None]


def test_training_sampling_and_scoring_share_one_machine(monkeypatch):
    seen = []
    for there, chosen in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
        entry_point(lambda cfg: seen.append(cfg.trainer.accelerator))(
            OmegaConf.create({"trainer": {"accelerator": "auto"}})
        )
        assert seen[-1] == chosen
