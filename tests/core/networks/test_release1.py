"""The networks of the first release: sizes counted by hand, noise that is mixed in, one timestep for the batch."""

import pytest
import torch

from core.networks.release1 import Release1Autoencoder, Release1Denoiser, mix_with_noise
from core.runtime.errors import UserError
from core.training.stage_modules import layers_in_eval_mode
from tests.core.tiny import randomize

SMALL = {"encoder_channels": (2, 2, 2, 2), "decoder_channels": (2, 64, 64, 8), "fold": 3}  # `small` of the release


def conv_size(incoming, outgoing, kernel):
    """Return the weights and biases of a convolution."""
    return incoming * outgoing * kernel + outgoing


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_autoencoder_has_as_many_parameters_as_medium_of_the_release():
    # build_layer of ODEncoder and ODDecoder: two convolutions a layer; the first encoder layer reads one channel, and
    # the last decoder layer writes one. Instance norms have no parameters.
    encoder = conv_size(1, 4, 5) + 7 * conv_size(4, 4, 5)
    widths = [(4, 256), (256, 256), (256, 8), (8, 1)]
    decoder = sum(conv_size(incoming, incoming, 5) + conv_size(incoming, outgoing, 5) for incoming, outgoing in widths)
    assert count(Release1Autoencoder(2048)) == encoder + decoder == 1_000_497


def test_the_denoiser_has_as_many_parameters_as_the_release():
    # enc1 to enc4 and dec1 to dec4 of AE_CNN_bottleneck, and nn.Embedding(1000, 12) for the latent of 2,048 parameters
    pairs = [
        (1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512),
        (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64), (64, 64), (64, 1),
    ]  # fmt: skip
    expected = sum(conv_size(*pair, 3) for pair in pairs) + 1000 * 12
    assert count(Release1Denoiser(12)) == expected == 2_362_273


@pytest.mark.parametrize(
    "num_params, options, latent_dim",
    # 2,048 numbers are padded to 2,500, and the layers leave 499, 99, 19 and 3 positions, each with 4 channels. The
    # release's configuration has in_dim: 12 for them. 512 numbers are padded to 567 = 7 · 3⁴.
    [(2048, {}, 12), (1250, {}, 8), (512, SMALL, 14), (81, SMALL, 4)],
)
def test_latents_have_the_length_of_the_release(num_params, options, latent_dim):
    autoencoder = Release1Autoencoder(num_params, **options)
    vectors_BD = torch.randn(3, num_params)
    latents_BL = autoencoder.encode(vectors_BD)
    assert latents_BL.shape == (3, latent_dim) == (3, autoencoder.latent_dim)
    assert latents_BL.abs().max() <= 1
    assert autoencoder.decode(latents_BL).shape == autoencoder(vectors_BD).shape == (3, num_params)


@pytest.mark.parametrize(
    "num_params, options",
    [(1249, {}), (80, SMALL), (2048, {"fold": 4}), (2048, {"input_noise": 1.1}), (2048, {"decoder_channels": (4, 8)})],
)
def test_what_the_release_cannot_build_is_refused(num_params, options):
    with pytest.raises(UserError, match=r"Set .*system\.autoencoder"):
        Release1Autoencoder(num_params, **options)


def test_mixed_noise_replaces_its_share_of_the_values():
    values = torch.full((1000, 50), 100.0)
    mixed = mix_with_noise(values, 0.25)
    assert mixed.mean().item() == pytest.approx(75, abs=0.01) and mixed.std().item() == pytest.approx(0.25, rel=0.02)
    assert torch.equal(mix_with_noise(values, 0.0), values)
    pure = mix_with_noise(values, 1.0)
    assert pure.mean().item() == pytest.approx(0, abs=0.02) and pure.std().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("training", [True, False])
def test_noise_is_mixed_into_vector_and_latent_and_the_latent_is_clamped_in_training_only(training):
    autoencoder = Release1Autoencoder(81, **SMALL, input_noise=1.0, latent_noise=0.5).train(training)
    seen = {}
    autoencoder.encode = lambda vectors_BD: seen.update(vectors=vectors_BD) or torch.full((500, 4), 4.0)
    autoencoder.decode = lambda latents_BL: seen.update(latents=latents_BL) or latents_BL
    vectors_BD = torch.full((500, 81), 100.0)
    autoencoder(vectors_BD)
    if training:
        assert abs(seen["vectors"].mean()) < 0.05  # with f = 1 nothing of the vector is left
        # 0.5 · 4 + 0.5 ξ is above 1 unless ξ < −2, so 97.7% of the latents are clamped to 1
        assert seen["latents"].max() == 1 and 0.96 < (seen["latents"] == 1).float().mean() < 0.99
    else:
        assert torch.equal(seen["vectors"], vectors_BD) and (seen["latents"] == 4).all()


def test_the_whole_batch_gets_the_timestep_of_its_first_sample_in_training_only():
    denoiser = randomize(Release1Denoiser(14, channels=(4, 8))).train()
    x_BL = torch.randn(3, 14)
    predicted = denoiser(x_BL, torch.tensor([7, 700, 42]))
    torch.testing.assert_close(predicted, denoiser(x_BL, torch.tensor([7, 7, 7])))
    assert (predicted - denoiser(x_BL, torch.tensor([700, 7, 7]))).abs().max() > 1e-3
    alone = torch.cat([denoiser(x_BL[[i]], torch.tensor([t])) for i, t in enumerate((7, 700, 42))])
    with layers_in_eval_mode(denoiser):  # as in a held-out loss
        torch.testing.assert_close(denoiser(x_BL, torch.tensor([7, 700, 42])), alone)


def test_every_parameter_gets_a_gradient():
    autoencoder, denoiser = Release1Autoencoder(81, **SMALL), Release1Denoiser(14, channels=(4, 8), num_timesteps=1)
    autoencoder.training_loss(torch.randn(3, 81)).backward()
    denoiser(torch.randn(3, 14), torch.zeros(3, dtype=torch.int64)).square().mean().backward()
    for network in (autoencoder, denoiser):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_each_falling_block_but_the_last_also_gets_the_output_of_its_rising_twin():
    denoiser = randomize(Release1Denoiser(14, channels=(4, 8, 16)))
    calls = []
    for block in (*denoiser.rising, *denoiser.falling):
        block.register_forward_hook(lambda block, given, output: calls.append((given[0], output)))
    x_BL, t_B = torch.randn(2, 14), torch.tensor([5, 5])
    predicted = denoiser(x_BL, t_B)
    time_1L = denoiser.embed_time(t_B[:1])
    inputs, (first, second, third, down_1, down_2, last) = zip(*calls, strict=True)
    sums = [x_BL[:, None], first, second, third, down_1 + second, down_2 + first]
    for given, expected in zip(inputs, sums, strict=True):
        torch.testing.assert_close(given, expected + time_1L)
    torch.testing.assert_close(predicted, last[:, 0])


@pytest.mark.parametrize("options", [{"channels": ()}, {"kernel_size": 4}, {"latent_dim": 1}])
def test_an_invalid_denoiser_is_refused(options):
    with pytest.raises(UserError, match=r"Set them under system\.denoiser"):
        Release1Denoiser(**{"latent_dim": 14, **options})
