"""Normalization to zero mean and unit variance, and its inverse."""

import pytest
import torch

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows

K = 9
SUBSET = ParameterSubset(
    ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "scale"), ((40,), (40,), (40,), (40,), ())
)


@pytest.fixture
def vectors_KD():
    """Return tensors of different means and scales: positive variances over several magnitudes, and a single number."""
    parts = [
        1 + 0.01 * torch.randn(K, 40),
        0.3 * torch.randn(K, 40),
        50 + 20 * torch.randn(K, 40),
        torch.randn(K, 40).mul(2).exp(),
        torch.rand(K, 1),
    ]
    return torch.cat(parts, dim=1)


def parts_of(values_KD):
    return dict(zip(SUBSET.names, values_KD.split(SUBSET.sizes, dim=1), strict=True))


def test_unnormalize_inverts_normalize(vectors_KD):
    normalizer = Normalizer.per_tensor(vectors_KD, SUBSET)
    torch.testing.assert_close(
        normalizer.unnormalize(normalizer.normalize(vectors_KD)), vectors_KD, rtol=1e-5, atol=1e-5
    )


def test_each_tensor_gets_zero_mean_and_on_average_unit_std(vectors_KD):
    for name, part in parts_of(Normalizer.per_tensor(vectors_KD, SUBSET).normalize(vectors_KD)).items():
        assert part.mean().item() == pytest.approx(0, abs=1e-4), name
        if name != "scale":
            assert part.std(dim=1, correction=0).mean().item() == pytest.approx(1, rel=1e-4), name


def test_a_single_number_is_scaled_by_how_it_varies_over_checkpoints(vectors_KD):
    scale = parts_of(Normalizer.per_tensor(vectors_KD, SUBSET).normalize(vectors_KD))["scale"]
    assert scale.std(correction=0).item() == pytest.approx(1, rel=1e-4)


def test_coefficients_are_the_mean_and_std_averaged_over_checkpoints():
    subset = ParameterSubset(("w",), ((2,),))
    normalizer = Normalizer.per_tensor(torch.tensor([[0.0, 2.0], [10.0, 16.0]]), subset)  # means 1, 13; stds 1, 3
    assert normalizer.mean.tolist() == [7, 7] and normalizer.std.tolist() == [2, 2]


def test_running_variances_stay_positive_whatever_is_generated(vectors_KD):
    normalizer = Normalizer.per_tensor(vectors_KD, SUBSET)
    generated = parts_of(normalizer.unnormalize(5 * torch.randn(K, SUBSET.num_params)))
    assert (generated["bn.running_var"] > 0).all()
    assert (generated["bn.running_mean"] < 0).any() and (generated["bn.bias"] < 0).any()


def test_only_running_variances_are_in_log_space(vectors_KD):
    log = parts_of(Normalizer.per_tensor(vectors_KD, SUBSET).log[None])
    assert {name for name, part in log.items() if part.all()} == {"bn.running_var"}
    assert {name for name, part in log.items() if part.any()} == {"bn.running_var"}


def test_a_variance_that_died_out_stays_finite_and_tiny(vectors_KD):
    vectors_KD[:, 120] = 0  # first running variance
    normalizer = Normalizer.per_tensor(vectors_KD, SUBSET)
    values = normalizer.normalize(vectors_KD)
    assert torch.isfinite(values).all()
    assert (normalizer.unnormalize(values)[:, 120] < 1e-9).all()


def test_a_constant_tensor_comes_back_without_division_by_zero():
    subset = ParameterSubset(("constant", "w"), ((3,), (3,)))
    vectors_KD = torch.cat([torch.full((K, 3), 7.0), torch.randn(K, 3)], dim=1)
    normalizer = Normalizer.per_tensor(vectors_KD, subset)
    values = normalizer.normalize(vectors_KD)
    assert torch.equal(values[:, :3], torch.zeros(K, 3))
    torch.testing.assert_close(normalizer.unnormalize(values), vectors_KD)


def test_latents_are_standardized_coordinate_by_coordinate():
    latents_KL = torch.randn(50, 4) * torch.tensor([1e-3, 1.0, 100.0, 0.0]) + torch.tensor([5.0, -2.0, 300.0, 9.0])
    normalizer = Normalizer.per_coordinate(latents_KL)
    values = normalizer.normalize(latents_KL)
    torch.testing.assert_close(values.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        values.std(dim=0, correction=0), torch.tensor([1.0, 1.0, 1.0, 0.0]), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(normalizer.unnormalize(values), latents_KL, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows_per_shard", [1, 2, 17])
def test_the_coefficients_of_several_shards_equal_those_of_one_tensor(vectors_KD, rows_per_shard):
    names, sizes = (*SUBSET.names, "drifting"), (*SUBSET.shapes, (1,))
    subset = ParameterSubset(names, sizes)
    drift_K1 = 1e3 + torch.arange(len(vectors_KD)).float()[:, None]  # the std comes from the means of the shards alone
    vectors_KD = torch.cat([vectors_KD, drift_K1], dim=1)
    whole = Normalizer.per_tensor(vectors_KD, subset)
    in_shards = Normalizer.per_tensor(VectorRows(vectors_KD.split(rows_per_shard)), subset)
    torch.testing.assert_close(in_shards.mean, whole.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(in_shards.std, whole.std, rtol=1e-6, atol=0)
    assert torch.equal(in_shards.log, whole.log)


def test_the_coefficients_of_one_shard_follow_the_formulas_bit_by_bit(vectors_KD):
    normalizer = Normalizer.per_tensor(VectorRows([vectors_KD]), SUBSET)
    mean, std = parts_of(normalizer.mean[None]), parts_of(normalizer.std[None])
    for name, part_KS in parts_of(vectors_KD).items():
        part_KS = part_KS.log() if name.endswith("running_var") else part_KS
        spread = part_KS.std(correction=0) if name == "scale" else part_KS.std(dim=1, correction=0).mean()
        assert torch.equal(mean[name], part_KS.mean().expand_as(mean[name]))
        assert torch.equal(std[name], spread.expand_as(std[name]))


def test_normalizing_alters_no_input(vectors_KD):
    before = vectors_KD.clone()
    normalizer = Normalizer.per_tensor(vectors_KD, SUBSET)
    normalizer.unnormalize(normalizer.normalize(vectors_KD))
    assert torch.equal(vectors_KD, before)


def test_the_coefficients_are_saved_and_are_no_parameters(vectors_KD):
    normalizer = Normalizer.per_tensor(vectors_KD, SUBSET)
    assert set(normalizer.state_dict()) == {"mean", "std", "log"} and not list(normalizer.parameters())
