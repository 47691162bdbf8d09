"""What is scored: each source by name, drawn by itself."""

from dataclasses import replace

import pytest
import torch

from core.evaluation.sources import SourceOptions, sources


@pytest.fixture
def make(tiny_checkpoints, tiny_generator):
    """`make(options, seed, checkpoints)`: the vectors of every source by name."""

    def build(
        options=SourceOptions(num_baselines=5, noise=(0.01, 0.1), average_of=4), seed=0, checkpoints=tiny_checkpoints
    ):
        return sources(
            checkpoints,
            tiny_generator,
            lambda: torch.full((3, 60), 7.0),
            lambda vectors_MD: vectors_MD + 100,
            options,
            seed,
        )

    return build


def test_every_source_has_its_name_and_its_number_of_models(make):
    shapes = {name: tuple(vectors().shape) for name, vectors in make().items()}
    assert shapes == {
        "original": (12, 60),
        "ensemble": (1, 60),
        "p_diff": (3, 60),
        "reconstructed": (12, 60),
        "noised_0.01": (5, 60),
        "noised_0.1": (5, 60),
        "average_4": (5, 60),
        "interpolated": (5, 60),
        "gaussian": (5, 60),
        "gaussian_full": (5, 60),
        "finetuned": (5, 60),
    }


def test_the_plain_sources_are_what_they_are_called(make, tiny_checkpoints, tiny_generator):
    made = make()
    assert torch.equal(made["original"](), tiny_checkpoints.vectors_KD)
    torch.testing.assert_close(made["ensemble"]()[0], tiny_checkpoints.vectors_KD.mean(dim=0))
    torch.testing.assert_close(made["reconstructed"](), tiny_generator.reconstruct(tiny_checkpoints.vectors_KD))
    assert (made["p_diff"]() == 7).all()


def test_fine_tuning_starts_from_different_checkpoints(make, tiny_checkpoints):
    starts = make()["finetuned"]() - 100
    nearest = torch.cdist(starts, tiny_checkpoints.vectors_KD).min(dim=1)
    assert (nearest.values < 1e-3).all() and len(nearest.indices.unique()) == 5


def test_each_noise_level_uses_its_own_sigma(make, tiny_checkpoints):
    made = make()

    def distance(name):
        return torch.cdist(made[name](), tiny_checkpoints.vectors_KD).min(dim=1).values.mean().item()

    assert distance("noised_0.1") == pytest.approx(10 * distance("noised_0.01"), rel=0.3)


def test_a_source_is_the_same_whatever_else_is_made_and_in_whatever_order(make):
    first = {name: vectors() for name, vectors in make().items()}
    fewer = make(SourceOptions(num_baselines=5, noise=(), average_of=4))
    for name in reversed(fewer):
        assert torch.equal(fewer[name](), first[name]), name
    other = make(seed=1)
    for name in ("noised_0.01", "average_4", "interpolated", "gaussian", "gaussian_full", "finetuned"):
        assert not torch.equal(other[name](), first[name]), name


def test_making_every_source_alters_no_checkpoint(make, tiny_checkpoints):
    before = tiny_checkpoints.vectors_KD.clone()
    for vectors in make().values():
        vectors()
    assert torch.equal(tiny_checkpoints.vectors_KD, before)


@pytest.mark.parametrize("k, name", [(12, "average_6"), (40, "average_16"), (2, "average_2"), (3, "average_2")])
def test_averages_stay_below_half_of_the_checkpoints_so_that_they_differ_from_the_ensemble(
    make, tiny_checkpoints, k, name
):
    vectors_KD = torch.randn(k, 60)
    checkpoints = replace(tiny_checkpoints, vectors_KD=vectors_KD, accuracy_K=torch.rand(k))
    averages = [source for source in make(SourceOptions(), checkpoints=checkpoints) if source.startswith("average")]
    assert averages == [name]


def test_no_noise_level_at_all_is_a_choice(make):
    assert not any(name.startswith("noised") for name in make(SourceOptions(noise=())))
