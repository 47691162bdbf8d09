"""Principal components: alone, and by chunks under convolutions."""

import pytest
import torch
from sklearn.decomposition import PCA

from core.networks import linear_autoencoders
from core.networks.linear_autoencoders import ChunkedAutoencoder, PCAAutoencoder
from core.runtime.errors import UserError

K, D = 12, 50


def vectors(rank=None, num_params=D):
    torch.manual_seed(0)
    if rank is None:
        return 1 + torch.randn(K, num_params)
    return 1 + torch.randn(K, rank) @ torch.randn(rank, num_params)


def adapted(autoencoder, vectors_KD):
    autoencoder.prepared = autoencoder.adapt(lambda part: vectors_KD[:, part], K)
    return autoencoder.eval()


def test_pca_equals_scikit_learns():
    vectors_KD = vectors()
    ours = adapted(PCAAutoencoder(D, latent_dim=4), vectors_KD)
    theirs = PCA(4).fit(vectors_KD.numpy())
    expected = torch.tensor(theirs.inverse_transform(theirs.transform(vectors_KD.numpy())))
    torch.testing.assert_close(ours(vectors_KD), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        ours.encode(vectors_KD).abs(), torch.tensor(theirs.transform(vectors_KD.numpy())).abs(), rtol=1e-4, atol=1e-4
    )


def test_pca_does_not_depend_on_how_many_columns_it_looks_at(monkeypatch):
    whole = adapted(PCAAutoencoder(D, 4), vectors())
    monkeypatch.setattr(linear_autoencoders, "NUMBERS_AT_ONCE", 7 * K)
    torch.testing.assert_close(
        adapted(PCAAutoencoder(D, 4), vectors())(vectors()), whole(vectors()), rtol=1e-4, atol=1e-4
    )


def test_with_enough_components_pca_reproduces_the_vectors_and_leaves_the_rest_zero():
    autoencoder = adapted(PCAAutoencoder(D, latent_dim=20), vectors())
    torch.testing.assert_close(autoencoder(vectors()), vectors(), rtol=1e-4, atol=1e-4)
    assert (autoencoder.components[K - 1 :] == 0).all() and autoencoder.encode(vectors()).isfinite().all()


@pytest.mark.parametrize(
    "chunk_size, rank", [(8, 3), (16, 5), (64, 4), (7, 7)]
)  # more and fewer numbers than vectors; one chunk; D no multiple
def test_codes_of_chunks_are_what_a_pca_of_each_chunk_gives(chunk_size, rank):
    vectors_KD = vectors()
    autoencoder = adapted(
        ChunkedAutoencoder(D, chunk_size=chunk_size, rank=rank, channels=(4,), latent_dim=6), vectors_KD
    )
    codes_KRN = autoencoder.prepared
    assert codes_KRN.shape == (K, rank, -(-D // chunk_size))
    for index, chunk in enumerate(vectors_KD.split(chunk_size, dim=1)):
        found = min(rank, K - 1, chunk.shape[1])
        theirs = PCA(found).fit(chunk.numpy())
        ours = autoencoder.components[index, : chunk.shape[1], :found]
        torch.testing.assert_close(ours.T.abs(), torch.tensor(theirs.components_).abs(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            codes_KRN[:, :found, index].std(0, correction=0), torch.ones(found), rtol=1e-3, atol=1e-3
        )


def test_encoding_a_vector_compresses_the_codes_that_training_saw():
    autoencoder = adapted(ChunkedAutoencoder(D, chunk_size=8, rank=3, channels=(4,), latent_dim=6), vectors())
    with torch.no_grad():
        torch.testing.assert_close(
            autoencoder.encode(vectors()), autoencoder._compress(autoencoder.prepared), rtol=1e-4, atol=1e-4
        )


def test_the_loss_over_codes_differs_from_that_over_vectors_by_what_no_training_changes():
    vectors_KD = vectors()
    autoencoder = adapted(
        ChunkedAutoencoder(D, chunk_size=8, rank=3, channels=(4,), latent_dim=6, input_noise=0.0, latent_noise=0.0),
        vectors_KD,
    )
    with torch.no_grad():
        centered_NKS = autoencoder._chunks(vectors_KD - autoencoder.center)
        lost_NKS = centered_NKS - centered_NKS @ autoencoder.components @ autoencoder.components.transpose(1, 2)
        over_codes = autoencoder.training_loss(autoencoder.prepared)
        over_vectors = torch.nn.functional.mse_loss(autoencoder(vectors_KD), vectors_KD)
    torch.testing.assert_close(
        over_vectors, over_codes + lost_NKS.square().sum() / vectors_KD.numel(), rtol=1e-4, atol=1e-5
    )


def test_input_noise_reaches_the_codes_in_the_size_that_it_has_on_vectors():
    autoencoder = adapted(
        ChunkedAutoencoder(D, chunk_size=8, rank=3, channels=(4,), latent_dim=6, input_noise=0.5, latent_noise=0.0),
        vectors(),
    )
    seen = []
    autoencoder._compress = lambda codes: seen.append(codes) or torch.zeros(len(codes), 6)
    codes_BRN = autoencoder.prepared[:1].expand(4000, -1, -1)
    autoencoder.training_loss(codes_BRN)
    noise = (seen[0] - codes_BRN) * autoencoder.spread.T
    varies_RN = autoencoder.spread.T > 0
    assert varies_RN.sum() == 3 * 6 + 2, "the last chunk has two numbers, so two directions"
    torch.testing.assert_close(noise.std(dim=0), 0.5 * varies_RN.float(), rtol=0.1, atol=1e-6)


def test_training_the_chunked_autoencoder_reconstructs_vectors_of_few_directions():
    vectors_KD = vectors(rank=2, num_params=200)
    autoencoder = adapted(
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


def test_a_direction_that_does_not_vary_costs_nothing():
    constant = torch.ones(K, D)
    for autoencoder in (PCAAutoencoder(D, 4), ChunkedAutoencoder(D, chunk_size=8, rank=3, channels=(4,), latent_dim=6)):
        torch.testing.assert_close(adapted(autoencoder, constant)(constant), constant)


def test_trained_numbers_grow_with_a_small_constant():
    def trained(num_params):
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in ChunkedAutoencoder(num_params).parameters())

    assert trained(10_000_000) < 4.5 * 10_000_000
    assert trained(10_000_000) - trained(9_000_000) == pytest.approx(trained(2_000_000) - trained(1_000_000), rel=1e-3)


def test_impossible_ranks_are_refused():
    with pytest.raises(UserError, match="rank=9, chunk_size=8"):
        ChunkedAutoencoder(D, chunk_size=8, rank=9)
