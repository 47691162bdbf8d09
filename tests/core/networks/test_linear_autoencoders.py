"""PCA alone, and PCA of chunks followed by convolutions, against scikit-learn."""

import pytest
import torch
from sklearn.decomposition import PCA

from core.networks import linear_autoencoders
from core.networks.linear_autoencoders import ChunkedAutoencoder, PCAAutoencoder
from core.runtime.errors import UserError

K, D = 12, 50


def make_vectors(rank=None, num_params=D):
    """Return K vectors (K, num_params) around 1, which vary along `rank` directions, or along all."""
    torch.manual_seed(0)
    if rank is None:
        return 1 + torch.randn(K, num_params)
    return 1 + torch.randn(K, rank) @ torch.randn(rank, num_params)


def adapt(autoencoder, vectors_KD):
    """Adapt the autoencoder to the vectors, and keep the rows for its loss as `prepared`."""
    autoencoder.prepared = autoencoder.adapt(lambda part: vectors_KD[:, part], K)
    return autoencoder.eval()


def test_pca_equals_that_of_scikit_learn():
    vectors_KD = make_vectors()
    ours = adapt(PCAAutoencoder(D, latent_dim=4), vectors_KD)
    theirs = PCA(4).fit(vectors_KD.numpy())
    expected = torch.tensor(theirs.inverse_transform(theirs.transform(vectors_KD.numpy())))
    torch.testing.assert_close(ours(vectors_KD), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        ours.encode(vectors_KD).abs(), torch.tensor(theirs.transform(vectors_KD.numpy())).abs(), rtol=1e-4, atol=1e-4
    )


def test_pca_does_not_depend_on_the_number_of_columns_per_pass(monkeypatch):
    whole = adapt(PCAAutoencoder(D, 4), make_vectors())
    monkeypatch.setattr(linear_autoencoders, "MAX_NUMBERS_PER_PASS", 7 * K)
    torch.testing.assert_close(
        adapt(PCAAutoencoder(D, 4), make_vectors())(make_vectors()), whole(make_vectors()), rtol=1e-4, atol=1e-4
    )


def test_with_enough_components_pca_reproduces_the_vectors_and_leaves_the_rest_zero():
    autoencoder = adapt(PCAAutoencoder(D, latent_dim=20), make_vectors())
    torch.testing.assert_close(autoencoder(make_vectors()), make_vectors(), rtol=1e-4, atol=1e-4)
    assert (autoencoder.components[K - 1 :] == 0).all() and autoencoder.encode(make_vectors()).isfinite().all()


# Chunks shorter than K, longer than K, longer than D, and of a length that does not divide D.
@pytest.mark.parametrize("chunk_size, rank", [(8, 3), (16, 5), (64, 4), (7, 7)])
def test_the_codes_of_a_chunk_are_standardized_coordinates_of_its_pca(chunk_size, rank):
    vectors_KD = make_vectors()
    autoencoder = adapt(
        ChunkedAutoencoder(D, chunk_size=chunk_size, rank=rank, channels=(4,), latent_dim=6), vectors_KD
    )
    codes_KRN = autoencoder.prepared
    torch.testing.assert_close(autoencoder.prepare(vectors_KD), codes_KRN, rtol=1e-3, atol=1e-4)
    assert codes_KRN.shape == (K, rank, -(-D // chunk_size))
    for index, chunk in enumerate(vectors_KD.split(chunk_size, dim=1)):
        found = min(rank, K - 1, chunk.shape[1])
        theirs = PCA(found).fit(chunk.numpy())
        ours = autoencoder.components[index, : chunk.shape[1], :found]
        torch.testing.assert_close(ours.T.abs(), torch.tensor(theirs.components_).abs(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            codes_KRN[:, :found, index].std(0, correction=0), torch.ones(found), rtol=1e-3, atol=1e-3
        )


def test_encoding_a_vector_uses_the_codes_that_training_saw():
    autoencoder = adapt(ChunkedAutoencoder(D, chunk_size=8, rank=3, channels=(4,), latent_dim=6), make_vectors())
    with torch.no_grad():
        torch.testing.assert_close(
            autoencoder.encode(make_vectors()), autoencoder._encode_codes(autoencoder.prepared), rtol=1e-4, atol=1e-4
        )


def test_the_loss_over_codes_differs_from_the_loss_over_vectors_by_a_constant():
    vectors_KD = make_vectors()
    autoencoder = adapt(
        ChunkedAutoencoder(D, chunk_size=8, rank=3, channels=(4,), latent_dim=6, input_noise=0.0, latent_noise=0.0),
        vectors_KD,
    )
    with torch.no_grad():
        centered_NKS = autoencoder._cut_into_chunks(vectors_KD - autoencoder.center)
        lost_NKS = centered_NKS - centered_NKS @ autoencoder.components @ autoencoder.components.transpose(1, 2)
        over_codes = autoencoder.training_loss(autoencoder.prepared)
        over_vectors = torch.nn.functional.mse_loss(autoencoder(vectors_KD), vectors_KD)
    torch.testing.assert_close(
        over_vectors, over_codes + lost_NKS.square().sum() / vectors_KD.numel(), rtol=1e-4, atol=1e-5
    )


def test_input_noise_on_codes_has_the_std_that_it_has_on_vectors():
    autoencoder = adapt(
        ChunkedAutoencoder(D, chunk_size=8, rank=3, channels=(4,), latent_dim=6, input_noise=0.5, latent_noise=0.0),
        make_vectors(),
    )
    seen = []
    autoencoder._encode_codes = lambda codes: seen.append(codes) or torch.zeros(len(codes), 6)
    codes_BRN = autoencoder.prepared[:1].expand(4000, -1, -1)
    autoencoder.training_loss(codes_BRN)
    noise = (seen[0] - codes_BRN) * autoencoder.spread.T
    varies_RN = autoencoder.spread.T > 0
    assert varies_RN.sum() == 3 * 6 + 2, "the last chunk has two numbers, and so two directions"
    torch.testing.assert_close(noise.std(dim=0), 0.5 * varies_RN.float(), rtol=0.1, atol=1e-6)


def test_training_the_chunked_autoencoder_reconstructs_vectors_that_vary_in_few_directions():
    vectors_KD = make_vectors(rank=2, num_params=200)
    autoencoder = adapt(
        ChunkedAutoencoder(200, chunk_size=16, rank=2, channels=(16,), latent_dim=8, input_noise=0.0, latent_noise=0.0),
        vectors_KD,
    )
    optimizer = torch.optim.AdamW(autoencoder.train().parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        autoencoder.training_loss(autoencoder.prepared).backward()
        optimizer.step()
    with torch.no_grad():
        error = (autoencoder.eval()(vectors_KD) - vectors_KD).square().mean() / vectors_KD.var(dim=0).mean()
    assert error < 0.05


def test_constant_vectors_are_reconstructed():
    constant = torch.ones(K, D)
    for autoencoder in (PCAAutoencoder(D, 4), ChunkedAutoencoder(D, chunk_size=8, rank=3, channels=(4,), latent_dim=6)):
        torch.testing.assert_close(adapt(autoencoder, constant)(constant), constant)


def test_the_trained_numbers_grow_linearly_with_d():
    def count_trained(num_params):
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in ChunkedAutoencoder(num_params).parameters())

    assert count_trained(10_000_000) < 4.5 * 10_000_000
    last_million = count_trained(10_000_000) - count_trained(9_000_000)
    assert last_million == pytest.approx(count_trained(2_000_000) - count_trained(1_000_000), rel=1e-3)


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_that_does_not_fit_its_chunk_is_refused_with_both_numbers(rank):
    with pytest.raises(UserError, match=f"rank={rank}, chunk_size=8"):
        ChunkedAutoencoder(D, chunk_size=8, rank=rank)
