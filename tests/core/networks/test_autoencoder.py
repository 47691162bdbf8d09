"""The parameter autoencoders take any D, add noise during training only, and have no unused weights."""

from itertools import pairwise

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.distributions import Normal, kl_divergence

from core.networks.autoencoder import ConvAutoencoder, VariationalAutoencoder
from core.runtime.errors import UserError
from tests.core.tiny import CONFIGS, randomize


@pytest.fixture
def autoencoder():
    return randomize(ConvAutoencoder(33, channels=(4, 8, 4), latent_dim=5))


@pytest.mark.parametrize("num_params", [1, 7, 33, 2048])
@pytest.mark.parametrize("channels", [(4,), (4, 8, 4)])
def test_vectors_of_any_length_are_encoded_and_decoded(num_params, channels):
    autoencoder = ConvAutoencoder(num_params, channels=channels, latent_dim=5).eval()
    vectors_BD = torch.randn(3, num_params)
    assert autoencoder.encode(vectors_BD).shape == (3, 5)
    assert autoencoder(vectors_BD).shape == (3, num_params)
    assert autoencoder.padded_length % 2 ** len(channels) == 0
    assert num_params <= autoencoder.padded_length < num_params + 2 ** len(channels)


def test_vectors_are_padded_with_zeros_at_the_end(autoencoder):
    padded = ConvAutoencoder(40, channels=(4, 8, 4), latent_dim=5).eval()
    padded.load_state_dict(autoencoder.state_dict())
    vectors_BD = torch.randn(3, 33)
    with_zeros = torch.cat([vectors_BD, torch.zeros(3, 7)], dim=1)
    torch.testing.assert_close(autoencoder.encode(vectors_BD), padded.encode(with_zeros))
    torch.testing.assert_close(autoencoder(vectors_BD), padded(with_zeros)[:, :33])


@pytest.mark.parametrize("num_params", [1, 7, 33])
def test_every_parameter_gets_a_gradient(num_params):
    autoencoder = randomize(ConvAutoencoder(num_params, channels=(4, 8), latent_dim=5))
    autoencoder(torch.randn(3, num_params)).square().mean().backward()
    dead = [
        name for name, parameter in autoencoder.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not dead, f"no gradient for {dead}"


def test_every_coordinate_reaches_the_latent_and_is_reached_by_it(autoencoder):
    vectors_BD = torch.randn(1, 33, requires_grad=True)
    autoencoder.encode(vectors_BD).sum().backward()
    assert vectors_BD.grad.ne(0).all()
    jacobian = torch.autograd.functional.jacobian(autoencoder.decode, torch.randn(1, 5))  # (1, 33, 1, 5)
    assert jacobian.ne(0).any(dim=-1).all()


def test_in_eval_mode_nothing_is_random_and_no_sample_depends_on_its_batch(autoencoder):
    vectors_BD = torch.randn(4, 33)
    together = autoencoder(vectors_BD)
    torch.testing.assert_close(together, autoencoder(vectors_BD), rtol=0, atol=0)
    torch.testing.assert_close(together[[2]], autoencoder(vectors_BD[[2]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noises", [(0.5, 0.0), (0.0, 0.5), (0.3, 0.4)])
def test_noise_has_the_given_std_whatever_the_size_of_the_vector(autoencoder, noises):
    autoencoder.input_noise, autoencoder.latent_noise = noises
    autoencoder.encode = autoencoder.decode = lambda values: values
    vectors_BD = 1000 * torch.randn(2000, 33)  # large, so that the rule x (1 − σ) + σ ε would fail
    added = autoencoder.train()(vectors_BD) - vectors_BD
    assert added.mean().item() == pytest.approx(0, abs=0.01)
    assert added.std().item() == pytest.approx(0.5, rel=0.02)


def test_the_encoder_has_the_chosen_activation_and_the_decoder_elu():
    autoencoder = ConvAutoencoder(33, channels=(4, 8), latent_dim=5, activation="leaky_relu")
    assert [type(block[2]) for block in autoencoder.encoder] == [nn.LeakyReLU] * 2
    assert [type(block[2]) for block in autoencoder.decoder] == [nn.ELU] * 2
    assert [type(block[2]) for block in ConvAutoencoder(33, channels=(4, 8)).encoder] == [nn.ELU] * 2


@pytest.mark.parametrize("network", [ConvAutoencoder, VariationalAutoencoder])
def test_a_second_linear_layer_maps_the_latent_once_more(network):
    autoencoder = network(33, channels=(4,), latent_dim=5, second_linear=True).eval()
    vectors_BD = torch.randn(3, 33)
    first, second = autoencoder.to_latent
    expected = second(first(autoencoder.encode_map(vectors_BD[:, None])))
    torch.testing.assert_close(autoencoder.encode(vectors_BD), expected)
    assert torch.isfinite(autoencoder.training_loss(vectors_BD))


def test_the_autoencoder_of_the_second_release_has_its_number_of_parameters():
    # OneDimVAE without fc_var: convolutions and transposed convolutions with kernels of 7, each with batch norm, and a
    # last convolution. The linear layers to_latent, fc_mu and to_decode map between 32 × 64 numbers and 128 numbers.
    widths, flat = [1, 64, 128, 256, 256, 32], 32 * 2048 // 2**5
    pairs = [*pairwise(widths), *pairwise([32, 256, 256, 128, 64, 64])]
    blocks = sum(7 * incoming * outgoing + 3 * outgoing for incoming, outgoing in pairs)
    linear = (flat * 128 + 128) + (128 * 128 + 128) + (128 * flat + flat)
    autoencoder = instantiate(OmegaConf.load(CONFIGS / "system/autoencoder/release2.yaml"), num_params=2048)
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == blocks + linear + (7 * 64 + 1)


def test_the_default_noises_are_those_of_the_paper():
    autoencoder = ConvAutoencoder(8)
    assert (autoencoder.input_noise, autoencoder.latent_noise) == (0.001, 0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 4},
        {"channels": ()},
        {"activation": "relu"},
        {"input_noise": -0.1},
        {"latent_noise": -0.1},
        {"latent_dim": 0},
    ],
)
def test_an_invalid_option_is_refused_with_its_value(options):
    ((name, value),) = options.items()
    shown = list(value) if isinstance(value, tuple) else value
    with pytest.raises(UserError) as error:
        ConvAutoencoder(8, **options)
    assert f"{name}={shown}" in str(error.value)


@pytest.mark.parametrize("path", sorted((CONFIGS / "system/autoencoder").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_configured_autoencoder_takes_vectors_of_the_papers_length(path):
    autoencoder = instantiate(OmegaConf.load(path), num_params=2048).eval()
    with torch.no_grad():
        assert autoencoder(torch.randn(2, 2048)).shape == (2, 2048)
        assert autoencoder.encode(torch.randn(2, 2048)).shape == (2, autoencoder.latent_dim)


def test_the_loss_of_the_vae_is_the_negative_elbo_per_parameter():
    vae = VariationalAutoencoder(33, channels=(4,), latent_dim=5, input_noise=0.0, kl_weight=0.7)
    vectors_BD = torch.randn(2000, 33)
    torch.manual_seed(1)
    loss = vae.training_loss(vectors_BD)
    features_BF = vae.encode_map(vectors_BD[:, None])
    posterior = Normal(vae.to_latent(features_BF), (vae.to_log_variance(features_BF) / 2).exp())
    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1).mean() / 33
    errors = [(vae.decode(posterior.sample()) - vectors_BD).square().mean() for _ in range(8)]
    assert loss.item() == pytest.approx((torch.stack(errors).mean() + 0.7 * kl).item(), rel=0.02)


def test_the_vae_encodes_to_the_mean_of_its_posterior():
    vae = VariationalAutoencoder(33, channels=(4,), latent_dim=5).eval()
    vectors_BD = torch.randn(3, 33)
    torch.testing.assert_close(vae.encode(vectors_BD), vae.to_latent(vae.encode_map(vectors_BD[:, None])))
    torch.testing.assert_close(vae(vectors_BD), vae(vectors_BD), rtol=0, atol=0)
