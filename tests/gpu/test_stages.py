"""Tests of both stages on a GPU: finite weights, resuming, compiling, precisions, and equal samples on GPU and CPU."""

from datetime import timedelta
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback

from core.generation.generator_file import load_generator
from core.runtime import trainer
from core.training.stage_modules import LatentDiffusionModule
from tests.core.tiny import SAMPLERS, StopAfter, sampler_recipe
from tests.gpu.tiny import CONV, MLP, checkpoints, train


class Devices(Callback):
    """A callback that records the device on which each stage trains."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.add((module.stage, module.rows_K.device.type, next(module.parameters()).device.type))


class StopDiffusion(StopAfter):
    """A callback that interrupts the second stage only."""

    def on_train_batch_end(self, trainer, module, *_):
        if isinstance(module, LatentDiffusionModule):
            super().on_train_batch_end(trainer, module)


def assert_finite(generator):
    for name, tensor in generator.state_dict().items():
        assert torch.isfinite(tensor).all(), f"{name} is not finite"
        assert not tensor.is_floating_point() or tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"


@pytest.mark.parametrize("denoiser", [MLP, CONV], ids=["mlp", "conv"])
def test_both_stages_train_on_the_device_and_end_finite(device, tmp_path, denoiser):
    devices = Devices()
    generator = train(tmp_path, device, denoiser=denoiser, extra=[devices])
    assert devices.seen == {(stage, device.type, device.type) for stage in ("autoencoder", "diffusion")}
    assert_finite(generator)
    assert torch.isfinite(generator.to(device).sample(0, range(3))).all()


@pytest.mark.parametrize("stop", [StopAfter(13), StopDiffusion(13)], ids=["autoencoder", "diffusion"])
def test_a_resumed_training_equals_an_uninterrupted_one(device, deterministic, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(microseconds=1))  # these fits end before the default interval
    uninterrupted = train(tmp_path / "uninterrupted", device, "trainer.deterministic=true")
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(tmp_path / "broken", device, "trainer.deterministic=true", extra=[stop])
    resumed = train(tmp_path / "broken", device, "trainer.deterministic=true").state_dict()
    for name, expected in uninterrupted.state_dict().items():
        torch.testing.assert_close(resumed[name], expected, rtol=1e-4, atol=1e-6, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_generator_file_samples_on_the_device_as_on_the_cpu(device, tmp_path, name):
    train(tmp_path, device).save(tmp_path / "generator.safetensors")
    recipe = sampler_recipe(name)
    recipe["num_steps"] = min(recipe["num_steps"], 100)
    on_cpu, on_device = (
        load_generator(tmp_path / "generator.safetensors").use_sampler(recipe).to(where)
        for where in (torch.device("cpu"), device)
    )
    torch.testing.assert_close(on_device.sample(3, range(4)), on_cpu.sample(3, range(4)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(on_device.sample(3, [2]), on_cpu.sample(3, range(4))[[2]], rtol=1e-4, atol=1e-4)


def test_vectors_are_reconstructed_on_the_device_as_on_the_cpu(device, tmp_path):
    generator, vectors_KD = train(tmp_path, device), checkpoints().vectors_KD
    on_cpu = generator.reconstruct(vectors_KD)
    torch.testing.assert_close(generator.to(device).reconstruct(vectors_KD), on_cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_other_precisions_train(device, tmp_path, precision):
    if device.type == "cpu" and precision != "32-true":
        pytest.skip("needs a GPU")
    assert_finite(train(tmp_path, device, f"trainer.precision={precision}"))


@pytest.mark.parametrize("precision", ["tf32", "bf16-mixed"])
def test_a_loss_compiled_with_cuda_graphs_trains(gpu, tmp_path, precision):
    assert_finite(train(tmp_path, gpu, "system.compile=reduce-overhead", f"trainer.precision={precision}"))
