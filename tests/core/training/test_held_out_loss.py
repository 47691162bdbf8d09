"""The loss on held-out rows: it shows overfitting, repeats its noise, and leaves the training as it is."""

import json
from functools import partial

import pytest
import torch
from torch.optim import AdamW

from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.networks.autoencoder import ConvAutoencoder
from core.networks.denoiser import ConvDenoiser, MLPDenoiser
from core.runtime.trainer import fit
from core.training.stage_modules import AutoencoderModule, LatentDiffusionModule, pair_with_timesteps
from tests.core.tiny import assert_same, cpu_trainer

OPTIONS = {"make_optimizer": partial(AdamW, lr=1e-2), "batch_size": 4, "seed": 0}
NOISY, NOISELESS = 5.0, 0.0


def make_autoencoder_module(held_out_H, num_steps=30, latent_noise=0.1):
    """Return stage one over five random vectors, with BatchNorm."""
    torch.manual_seed(1)
    autoencoder = ConvAutoencoder(20, channels=(8,), latent_dim=2, latent_noise=latent_noise)
    return AutoencoderModule(autoencoder, torch.randn(5, 20), held_out_H=held_out_H, num_steps=num_steps, **OPTIONS)


def make_diffusion_module(held_out_HL, num_steps=30, denoiser=None):
    """Return stage two over five random latents, with BatchNorm in the default denoiser."""
    torch.manual_seed(1)
    denoiser = denoiser or ConvDenoiser(20, channels=(4, 8, 4, 1), kernel_size=3)
    return LatentDiffusionModule(
        denoiser, NoiseSchedule(50), torch.randn(5, 20), held_out_HL=held_out_HL, num_steps=num_steps, **OPTIONS
    )


def read_losses(folder, name):
    """Return the values of one metric, by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def run(module, folder):
    fit(module, name=module.stage, state_dir=folder / "state", make_trainer=cpu_trainer())
    return [read_losses(folder, f"{module.stage}/{name}") for name in ("loss", "held_out_loss")]


@pytest.mark.parametrize(
    "make_module",
    [
        partial(make_autoencoder_module, num_steps=100),
        lambda rows: make_diffusion_module(rows, 150, MLPDenoiser(20, hidden_dim=64, num_blocks=2)),
    ],
    ids=["autoencoder", "diffusion"],
)
def test_it_rises_while_a_network_overfits(make_module, tmp_path):
    """Random rows have nothing in common, so all that a network learns about five of them is wrong for the others."""
    losses, held_out = run(make_module(torch.randn(30, 20)), tmp_path)
    assert losses.keys() == held_out.keys()
    train, other = torch.tensor(list(losses.values())), torch.tensor(list(held_out.values()))
    assert train[-20:].mean() < 0.7 * train[:5].mean()
    assert other[-20:].mean() > 1.2 * other.min() and other[-20:].mean() > 1.5 * train[-20:].mean()


@pytest.mark.parametrize("make_module", [make_autoencoder_module, make_diffusion_module])
def test_it_changes_no_bit_of_the_training(make_module, tmp_path):
    module, without = make_module(torch.randn(7, 20)), make_module(None)
    losses, held_out = run(module, tmp_path / "with")
    assert run(without, tmp_path / "without") == [losses, {}] and len(held_out) == 30
    assert_same(module.state_dict(), without.state_dict())


@pytest.mark.parametrize("make_module", [make_autoencoder_module, make_diffusion_module])
def test_it_keeps_the_noise_the_modes_and_the_statistics(make_module):
    module = make_module(torch.randn(7, 20)).train()
    module.network.get_submodule("decoder" if module.stage == "autoencoder" else "falling").eval()
    modes = [layer.training for layer in module.modules()]
    state, random_state = {name: tensor.clone() for name, tensor in module.state_dict().items()}, torch.get_rng_state()
    loss = module.measure_held_out_loss()
    torch.randn(3)
    assert torch.equal(module.measure_held_out_loss(), loss) and not loss.requires_grad
    torch.set_rng_state(random_state)
    module.measure_held_out_loss()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [layer.training for layer in module.modules()] == modes and not all(modes)
    assert_same(module.state_dict(), state)


def test_every_row_counts_once_and_with_the_noise_of_training():
    rows_H = torch.randn(7, 20)  # more than one batch, and a last batch that is smaller
    quiet, noisy = (make_autoencoder_module(rows_H, latent_noise=noise).train() for noise in (NOISELESS, NOISY))
    for module in (quiet, noisy):
        module.autoencoder.input_noise = 0.0
    expected = (quiet.autoencoder.eval()(rows_H) - rows_H).square().mean()
    quiet.autoencoder.train()
    torch.testing.assert_close(quiet.measure_held_out_loss(), expected)
    assert noisy.measure_held_out_loss() > expected


def test_the_timesteps_are_stratified_over_all_latents():
    latents_PL, t_P = pair_with_timesteps(torch.arange(3.0)[:, None], num_timesteps=1000)
    assert len(t_P) == 201 and t_P.dtype == torch.int64
    assert torch.equal(t_P, ((torch.arange(201) + 0.5) * 1000 / 201).floor().long())
    for latent in range(3):
        chosen = t_P[latents_PL[:, 0] == latent]
        assert len(chosen) == 67 and chosen.min() < 15 and chosen.max() > 985
    assert len(pair_with_timesteps(torch.zeros(250, 2), num_timesteps=10)[1]) == 250
