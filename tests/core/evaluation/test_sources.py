"""Sources of weights: their names, sizes, kinds and independence of each other."""

from dataclasses import replace

import pytest
import torch

from core.checkpoints.vector_rows import VectorRows
from core.evaluation.kinds import Kind, get_family, infer_kind
from core.evaluation.sources import EVERY_SPLIT, Finetuning, Material, SourceOptions, list_sources

OPTIONS = SourceOptions(num_baselines=5, noise=(0.01, 0.1), average_of=4)


@pytest.fixture
def listed(tiny_checkpoints, tiny_generator):
    """Return a function that lists all sources for some options, seed and checkpoints."""

    def build(options=OPTIONS, seed=0, checkpoints=tiny_checkpoints):
        generated_MD = torch.full((3, 60), 7.0)
        material = Material(
            checkpoints=checkpoints,
            generator=tiny_generator,
            generated_MD=generated_MD,
            options=options,
            seed=seed,
        )
        finetuning = Finetuning(
            train=lambda vectors_MD: vectors_MD + 100, num_images=0, settings={"batch_size": 8}, code={"tune": "0"}
        )
        return list_sources(material, finetuning)

    return build


@pytest.fixture
def make(listed):
    """Return a function that returns the `make` of every source by name, for some options, seed and checkpoints."""

    def build(*args, **kwargs):
        return {source.name: source.make for source in listed(*args, **kwargs)}

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


def test_the_sources_that_draw_nothing_hold_the_right_vectors(make, tiny_checkpoints, tiny_generator):
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


def test_a_source_does_not_depend_on_other_sources_or_their_order(make):
    first = {name: vectors() for name, vectors in make().items()}
    fewer = make(SourceOptions(num_baselines=5, noise=(), average_of=4))
    for name in reversed(fewer):
        assert torch.equal(fewer[name](), first[name]), name
    other = make(seed=1)
    for name in ("noised_0.01", "average_4", "interpolated", "gaussian", "gaussian_full", "finetuned"):
        assert not torch.equal(other[name](), first[name]), name


def test_making_the_sources_does_not_change_the_checkpoints(make, tiny_checkpoints):
    before = tiny_checkpoints.vectors_KD.clone()
    for vectors in make().values():
        vectors()
    assert torch.equal(tiny_checkpoints.vectors_KD, before)


@pytest.mark.parametrize("k, name", [(12, "average_6"), (40, "average_16"), (2, "average_2"), (3, "average_2")])
def test_averages_stay_below_half_of_the_checkpoints_so_that_they_differ_from_the_ensemble(
    make, tiny_checkpoints, k, name
):
    vectors_KD = torch.randn(k, 60)
    checkpoints = replace(tiny_checkpoints, rows=VectorRows([vectors_KD]), accuracy_K=torch.rand(k))
    averages = [name for name in make(SourceOptions(), checkpoints=checkpoints) if get_family(name) == "average"]
    assert averages == [name]


def test_the_list_of_noise_levels_may_be_empty(make):
    assert not any(get_family(name) == "noised" for name in make(SourceOptions(noise=())))


def test_each_source_has_its_kind_its_splits_and_its_need_of_the_generator(listed):
    found = {source.name: (source.kind, source.splits, source.needs_generator) for source in listed()}
    free = (Kind.FREE, ("test",), False)
    assert found == {
        "original": (Kind.ORIGINAL, EVERY_SPLIT, False),
        "ensemble": (Kind.FREE, EVERY_SPLIT, False),
        "p_diff": (Kind.GENERATED, EVERY_SPLIT, True),
        "reconstructed": (Kind.RECONSTRUCTED, ("test",), True),
        "noised_0.01": free,
        "noised_0.1": free,
        "average_4": free,
        "interpolated": free,
        "gaussian": free,
        "gaussian_full": free,
        "finetuned": (Kind.TRAINED, ("test",), False),
    }


def test_the_kind_of_a_source_is_inferred_from_its_name(listed):
    for source in listed():
        assert infer_kind(source.name) is source.kind
    assert infer_kind("soup_original") is infer_kind("soup_p_diff") is Kind.SOUP


@pytest.mark.parametrize(
    "name, family",
    [("noised_0.05", "noised"), ("average_16", "average"), ("gaussian_full", "gaussian_full"), ("p_diff", "p_diff")],
)
def test_a_family_is_the_name_without_its_number(name, family):
    assert get_family(name) == family
