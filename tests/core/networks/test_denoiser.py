"""Denoisers give every sample its own timestep and every parameter a gradient."""

from itertools import pairwise

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from core.networks.blocks import sinusoidal_embedding
from core.networks.denoiser import ConvDenoiser, MLPDenoiser
from core.runtime.errors import UserError
from tests.core.tiny import CONFIGS, randomize

L = 11


@pytest.fixture(params=["conv", "conv with learned time", "mlp", "mlp without its sum"])
def denoiser(request):
    if "mlp" in request.param:
        return randomize(MLPDenoiser(L, hidden_dim=16, num_blocks=2, residual=request.param == "mlp"))
    learn_time = request.param != "conv"
    return randomize(ConvDenoiser(L, channels=(4, 8, 16, 8, 4, 1), kernel_size=3, learn_time=learn_time))


def test_a_prediction_does_not_depend_on_the_batch(denoiser):
    x_BL, t_B = torch.randn(3, L), torch.tensor([3, 700, 42])
    together = denoiser(x_BL, t_B)
    for row in range(3):
        torch.testing.assert_close(together[[row]], denoiser(x_BL[[row]], t_B[[row]]), rtol=1e-4, atol=1e-5)


def test_a_timestep_changes_only_the_prediction_of_its_sample(denoiser):
    x_BL = torch.randn(1, L).repeat(3, 1)
    same, other = denoiser(x_BL, torch.tensor([5, 5, 5])), denoiser(x_BL, torch.tensor([5, 900, 5]))
    assert (same[1] - other[1]).abs().max() > 1e-3
    torch.testing.assert_close(same[[0, 2]], other[[0, 2]])


def test_every_parameter_gets_a_gradient(denoiser):
    denoiser(torch.randn(4, L), torch.tensor([0, 1, 500, 999])).square().mean().backward()
    dead = [
        name for name, parameter in denoiser.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not dead, f"no gradient for {dead}"


def test_the_prediction_has_the_shape_of_the_latent(denoiser):
    assert denoiser(torch.randn(4, L), torch.full((4,), 500)).shape == (4, L)


def test_no_activation_bounds_the_predicted_noise():
    denoiser = randomize(ConvDenoiser(L, channels=(4, 1), kernel_size=3))
    predicted = denoiser(1000 * torch.randn(100, L), torch.full((100,), 500))
    assert predicted.min() < -10 and predicted.max() > 10  # an ELU would end at −1


def test_the_untrained_mlp_predicts_its_input():
    x_BL = 100 * torch.randn(4, L)
    torch.testing.assert_close(MLPDenoiser(L)(x_BL, torch.tensor([0, 1, 500, 999])), x_BL)


def test_without_its_sum_the_mlp_predicts_the_correction_alone():
    with_sum = randomize(MLPDenoiser(L, hidden_dim=16))
    without = MLPDenoiser(L, hidden_dim=16, residual=False)
    without.load_state_dict(with_sum.state_dict())
    x_BL, t_B = torch.randn(4, L), torch.tensor([0, 1, 500, 999])
    torch.testing.assert_close(without(x_BL, t_B), with_sum(x_BL, t_B) - x_BL)


def test_the_learned_timestep_is_an_mlp_over_256_sines_and_cosines():
    denoiser = randomize(ConvDenoiser(L, channels=(4, 1), learn_time=True))
    given = []
    denoiser.rising[0].register_forward_hook(lambda layer, inputs, output: given.append(inputs[0]))
    x_BL, t_B = torch.randn(2, L), torch.tensor([3, 700])
    denoiser(x_BL, t_B)
    first, _, last = denoiser.embed_time
    hidden_BL = torch.nn.functional.silu(sinusoidal_embedding(t_B, 256) @ first.weight.T + first.bias)
    time_BL = hidden_BL @ last.weight.T + last.bias
    torch.testing.assert_close(given[0], (x_BL + time_BL)[:, None])


def test_the_denoiser_of_the_second_release_has_its_number_of_parameters():
    # OneDimCNN: eight convolutions with kernels of 7, batch norm after all but the last, and TimestepEmbedder
    widths = [1, 64, 128, 256, 512, 256, 128, 64, 1]
    convs = sum(7 * incoming * outgoing + outgoing for incoming, outgoing in pairwise(widths))
    expected = convs + 2 * sum(widths[1:-1]) + (256 * 128 + 128) + (128 * 128 + 128)
    denoiser = instantiate(OmegaConf.load(CONFIGS / "system/denoiser/release2.yaml"), latent_dim=128)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == expected


@pytest.mark.parametrize("channels", [(4, 1), (4, 8, 4, 1), (4, 8, 16, 8, 4, 1)])
def test_falling_layers_also_receive_the_output_of_their_rising_twin_and_all_layers_the_timestep(channels):
    denoiser = randomize(ConvDenoiser(L, channels=channels, kernel_size=3))
    calls = []
    for layer in (*denoiser.rising, *denoiser.falling):
        layer.register_forward_hook(lambda layer, inputs, output: calls.append((inputs[0], output)))
    x_BL, t_B = torch.randn(2, L), torch.tensor([3, 700])
    prediction = denoiser(x_BL, t_B)

    half, time_B1L = len(channels) // 2, sinusoidal_embedding(t_B, L)[:, None]
    rising, falling = calls[:half], calls[half:]
    assert len(rising) == len(falling) == half
    previous = x_BL[:, None]
    for received, output in rising:
        torch.testing.assert_close(received, previous + time_B1L)
        previous = output
    twins = [0, *(output for _, output in reversed(rising[:-1]))]  # the deepest output is not added again
    for (received, output), twin in zip(falling, twins, strict=True):
        torch.testing.assert_close(received, previous + twin + time_B1L)
        previous = output
    torch.testing.assert_close(prediction, previous[:, 0])


@pytest.mark.parametrize("channels", [(), (4,), (4, 8, 1), (4, 8, 4), (4, 8, 4, 2), (4, 8, 8, 4, 1)])
def test_channels_that_do_not_rise_and_fall_alike_are_refused_with_their_values(channels):
    with pytest.raises(UserError) as error:
        ConvDenoiser(L, channels=channels)
    assert f"channels={list(channels)}" in str(error.value)


def test_an_even_kernel_is_refused_with_its_value():
    with pytest.raises(UserError, match="kernel_size=4"):
        ConvDenoiser(L, kernel_size=4)


@pytest.mark.parametrize("path", sorted((CONFIGS / "system/denoiser").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_configured_denoiser_maps_latents_to_latents(path):
    denoiser = instantiate(OmegaConf.load(path), latent_dim=128).eval()
    with torch.no_grad():
        assert denoiser(torch.randn(2, 128), torch.tensor([0, 999])).shape == (2, 128)
    assert denoiser.latent_dim == 128
