"""From checkpoints to a generator: what is averaged, what is frozen, what is resumed."""

import copy
from collections.abc import Callable

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback

from core.generation.generator import WeightGenerator
from core.runtime.errors import UserError
from core.runtime.progress import Stages
from core.training.diffusion_module import LatentDiffusionModule
from core.training.stages import train_generator, training_settings
from tests.core.tiny import StopAfter

DECAY, STEPS = 0.8, 23  # of tiny_system


class KeepWeights(Callback):
    """Copies the denoiser after every step of the diffusion stage."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, module, *_):
        if isinstance(module, LatentDiffusionModule):
            self.states.append({name: tensor.detach().clone() for name, tensor in module.denoiser.state_dict().items()})


class StopDiffusion(StopAfter):
    def on_train_batch_end(self, trainer, module, *_):
        if isinstance(module, LatentDiffusionModule):
            super().on_train_batch_end(trainer, module)


@pytest.fixture
def train(tmp_path, tiny_system, tiny_checkpoints, make_trainer) -> Callable[..., WeightGenerator]:
    """`train(folder, *callbacks)`: one session of both stages."""

    def session(folder, *extra, system=tiny_system, checkpoints=tiny_checkpoints, seed=0):
        return train_generator(
            system,
            checkpoints,
            seed=seed,
            state_dir=tmp_path / folder / "training_state",
            make_trainer=make_trainer(*extra),
            loggers=[],
            stages=Stages(["autoencoder", "diffusion"]),
        )

    return session


def assert_same(generator, expected):
    state = generator.state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("denoiser", ["mlp", "conv"])
def test_the_generator_holds_the_average_of_the_weights_and_not_the_last_ones(train, tiny_system, tmp_path, denoiser):
    if denoiser == "conv":  # its BatchNorm statistics are averaged too
        tiny_system.denoiser = OmegaConf.create({"_target_": "core.networks.denoiser.ConvDenoiser", "channels": [4, 8, 4, 1], "kernel_size": 3})
    kept = KeepWeights()
    generator = train("run", kept)
    assert len(kept.states) == STEPS

    average = {name: tensor.double() for name, tensor in kept.states[0].items() if tensor.is_floating_point()}
    for state in kept.states[1:]:
        average = {name: DECAY * before + (1 - DECAY) * state[name] for name, before in average.items()}

    generator.save(tmp_path / "generator.safetensors")
    for stage in (generator, WeightGenerator.load(tmp_path / "generator.safetensors")):
        final = stage.denoiser.state_dict()
        for name, expected in average.items():
            torch.testing.assert_close(final[name].double(), expected, rtol=1e-4, atol=1e-6)
        last = kept.states[-1]
        assert all((final[name] - last[name]).abs().max() > 1e-5 for name in average if name.endswith("weight"))


def test_the_diffusion_learns_latents_of_the_autoencoder_as_it_decodes_and_standardized(train, tiny_checkpoints):
    """Latents of a batch-dependent encoder, or raw ones, would not have zero mean and unit variance."""
    latents_KL = train("run").encode(tiny_checkpoints.vectors_KD)
    torch.testing.assert_close(latents_KL.mean(dim=0), torch.zeros(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents_KL.std(dim=0, correction=0), torch.ones(6), rtol=1e-3, atol=1e-3)


def test_the_autoencoder_no_longer_changes_in_the_second_stage(train, tiny_system):
    longer = copy.deepcopy(tiny_system)
    longer.diffusion_steps = STEPS + 10
    short, long = train("short"), train("long", system=longer)
    assert_same(long.autoencoder, short.autoencoder)
    assert not torch.equal(long.denoiser.project_in.weight, short.denoiser.project_in.weight)


def test_the_result_depends_on_the_seed_and_not_on_earlier_randomness(train):
    first = train("first")
    torch.rand(1000)
    assert_same(train("second"), first)
    other = train("third", seed=1)
    assert not torch.equal(other.autoencoder.to_latent.weight, first.autoencoder.to_latent.weight)
    assert not torch.equal(other.denoiser.project_in.weight, first.denoiser.project_in.weight)


@pytest.mark.parametrize("stop", [StopAfter(13), StopDiffusion(1), StopDiffusion(13)], ids=["autoencoder", "diffusion, no state", "diffusion"])
def test_an_interrupted_training_equals_an_unbroken_one(train, stop):
    with pytest.raises(RuntimeError):
        train("broken", stop)
    assert_same(train("broken"), train("unbroken"))


def test_a_finished_training_is_loaded_and_not_repeated(train):
    generator = train("run")
    again = train("run", StopAfter(1))  # would raise if any stage trained
    assert_same(again, generator)
    assert again.trained_on == generator.trained_on


def test_training_alters_no_checkpoint(train, tiny_checkpoints):
    before_KD, network = tiny_checkpoints.vectors_KD.clone(), copy.deepcopy(tiny_checkpoints.network)
    train("run")
    assert torch.equal(tiny_checkpoints.vectors_KD, before_KD)
    assert all(torch.equal(tiny_checkpoints.network[name], tensor) for name, tensor in network.items())


def test_the_generator_knows_what_it_was_trained_on(train, tiny_checkpoints):
    trained_on = train("run", checkpoints=tiny_checkpoints.first(7), seed=3).trained_on
    assert trained_on["fingerprint"] == tiny_checkpoints.first(7).fingerprint
    assert (trained_on["k"], trained_on["seed"]) == (7, 3)
    assert set(trained_on["seconds"]) == {"autoencoder", "diffusion"}


def test_a_batch_of_all_checkpoints_and_two_checkpoints_train(train, tiny_checkpoints):
    generator = train("run", checkpoints=tiny_checkpoints.first(2))
    assert torch.isfinite(generator.sample(0, range(3))).all()


def test_the_settings_name_what_decides_the_generator_and_leave_the_sampler_free(tiny_system, tiny_checkpoints):
    settings = training_settings(tiny_system, tiny_checkpoints, seed=5)
    assert settings["seed"] == 5 and settings["task"]["param"]["k"] == 12 and settings["checkpoints"] == tiny_checkpoints.fingerprint
    assert settings["system"]["ema_decay"] == DECAY and settings["system"]["autoencoder"]["channels"] == [4, 8]

    changed = copy.deepcopy(tiny_system)
    changed.sampler.num_steps = 7
    assert training_settings(changed, tiny_checkpoints, seed=5) == settings
    changed.ema_decay = 0.5
    assert training_settings(changed, tiny_checkpoints, seed=5) != settings
    assert training_settings(tiny_system, tiny_checkpoints.first(11), seed=5) != settings


def test_diverging_training_ends_in_one_sentence_that_names_the_stage(train, tiny_system):
    tiny_system.denoiser_optimizer.lr = 1e30
    with pytest.raises(UserError, match="^diffusion: .*learning rate"):
        train("run")
