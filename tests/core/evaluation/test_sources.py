"""Sources of weights: their names, sizes, kinds and independence of each other."""

from dataclasses import replace

import pytest
import torch

from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.evaluation.kinds import Kind, get_family, infer_kind
from core.evaluation.metrics import variance_kept
from core.evaluation.sources import EVERY_SPLIT, Material, SourceOptions, choose_checkpoints, list_sources

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
            training_steps=60,
        )
        return list_sources(material)

    return build


def steps_of(*trainings_and_steps):
    return torch.tensor(trainings_and_steps, dtype=torch.int64)


@pytest.fixture
def one_training(tiny_checkpoints):
    """Return the checkpoints as every second step of one training, with six held-out ones, three for the audit."""
    return replace(
        tiny_checkpoints,
        origin_K2=steps_of(*((0, step) for step in range(2, 26, 2))),
        held_out_HD=torch.randn(6, 60),
        held_out_origin_H2=steps_of(*((0, step) for step in range(26, 38, 2))),
    )


@pytest.fixture
def independent(tiny_checkpoints):
    """Return the checkpoints as the ends of trainings of 40 steps, with two held-out ones, one for the audit."""
    return replace(
        tiny_checkpoints,
        origin_K2=steps_of(*((training, 40) for training in range(12))),
        held_out_HD=torch.randn(2, 60),
        held_out_origin_H2=steps_of((12, 40), (13, 40)),
    )


@pytest.fixture
def make(listed):
    """Return a function that returns the `make` of every source by name, for some options, seed and checkpoints."""

    def build(*args, **kwargs):
        return {source.name: source.make for source in listed(*args, **kwargs)}

    return build


def test_every_source_has_its_name_and_its_number_of_models(make, listed, one_training):
    shapes = {name: tuple(vectors().shape) for name, vectors in make(checkpoints=one_training).items()}
    assert {source.name: source.num_models for source in listed(checkpoints=one_training)} == {
        name: num_models for name, (num_models, _) in shapes.items()
    }
    assert shapes == {
        "original": (12, 60),
        "ensemble": (1, 60),
        "p_diff": (3, 60),
        "reconstructed": (5, 60),
        "noised_0.01": (5, 60),
        "noised_0.1": (5, 60),
        "average_4": (5, 60),
        "interpolated": (5, 60),
        "gaussian": (5, 60),
        "gaussian_full": (5, 60),
        "swag": (5, 60),
        "ema": (1, 60),
        "lawa": (1, 60),
        "continued": (3, 60),
    }


def test_the_sources_that_draw_nothing_hold_the_right_vectors(make, tiny_checkpoints, tiny_generator):
    made = make()
    assert torch.equal(made["original"](), tiny_checkpoints.vectors_KD)
    torch.testing.assert_close(made["ensemble"]()[0], tiny_checkpoints.vectors_KD.mean(dim=0))
    chosen = tiny_checkpoints.vectors_KD[[0, 3, 6, 8, 11]]
    torch.testing.assert_close(made["reconstructed"](), tiny_generator.reconstruct(chosen))
    assert (made["p_diff"]() == 7).all()


def test_the_variance_kept_compares_each_reconstruction_with_its_own_checkpoint(make, tiny_checkpoints):
    originals = tiny_checkpoints.vectors_KD.numpy()
    for num_baselines in (5, 1, 12, 30):
        reconstructed = make(SourceOptions(num_baselines=num_baselines))["reconstructed"]().numpy()
        assert len(reconstructed) == min(12, num_baselines)
        rows = originals[[0, 3, 6, 8, 11]] if num_baselines == 5 else originals[: len(reconstructed)]
        lost, spread = ((reconstructed - rows) ** 2).sum(), ((rows - originals.mean(axis=0)) ** 2).sum()
        assert variance_kept(reconstructed, originals) == pytest.approx(1 - lost / spread, rel=1e-4)


def test_fine_tuning_starts_from_different_checkpoints(tiny_checkpoints):
    starts = choose_checkpoints(tiny_checkpoints.vectors_KD, 5, seed=0)
    nearest = torch.cdist(starts, tiny_checkpoints.vectors_KD).min(dim=1)
    assert (nearest.values < 1e-3).all() and len(nearest.indices.unique()) == 5


def test_held_out_checkpoints_are_named_after_their_training(make, one_training, independent, tiny_checkpoints):
    for checkpoints, name, num_models in ((one_training, "continued", 3), (independent, "held_out", 1)):
        made = make(checkpoints=checkpoints)
        assert {"continued", "held_out"} & made.keys() == {name}
        assert torch.equal(made[name](), checkpoints.held_out_HD[-num_models:])
    assert not {"continued", "held_out"} & make().keys()


def test_one_checkpoint_of_a_zoo_is_no_training_of_several_steps(make, independent):
    one = replace(
        independent,
        rows=independent.rows.first(1),
        accuracy_K=independent.accuracy_K[:1],
        origin_K2=independent.origin_K2[:1],
    )
    assert {"continued", "held_out", "ema", "lawa"} & make(checkpoints=one).keys() == {"held_out"}


@pytest.mark.parametrize("unknown", ["origin_K2", "held_out_origin_H2"])
def test_held_out_checkpoints_of_unknown_origin_are_left_out(make, one_training, unknown):
    made = make(checkpoints=replace(one_training, **{unknown: None}))
    assert not {"continued", "held_out"} & made.keys()


def test_held_out_steps_of_several_trainings_continue_them(listed, one_training):
    several = replace(
        one_training,
        origin_K2=steps_of(*((training, step) for training in (0, 1) for step in range(10, 70, 10))),
        held_out_origin_H2=steps_of((0, 70), (0, 80), (0, 90), (0, 70), (1, 70), (1, 80)),
    )
    [source] = [source for source in listed(checkpoints=several) if source.name in ("continued", "held_out")]
    assert source.name == "continued" and source.gradient_evaluations == (10 + 20) / 3


def test_other_held_out_checkpoints_are_another_source(listed, one_training):
    def find_settings(checkpoints):
        return next(source.settings for source in listed(checkpoints=checkpoints) if source.name == "continued")

    later = replace(one_training, held_out_HD=one_training.held_out_HD + 1)
    assert find_settings(later) != find_settings(one_training)


def test_only_checkpoints_of_one_training_have_a_moving_average(make, one_training, independent, tiny_checkpoints):
    named = [
        {"ema", "lawa"} & make(checkpoints=given).keys() for given in (one_training, independent, tiny_checkpoints)
    ]
    assert named == [{"ema", "lawa"}, set(), set()]  # the origin of the last ones is unknown


def test_each_source_names_its_gradient_evaluations_per_model(listed, one_training, independent):
    costs = {source.name: source.gradient_evaluations for source in listed(checkpoints=one_training)}
    assert costs["p_diff"] == 60 / 3 and costs["continued"] == (36 - 24) / 3
    assert costs["original"] is costs["reconstructed"] is None
    free = [source for source in listed(checkpoints=one_training) if source.kind is Kind.FREE]
    assert len(free) == 10 and {costs[source.name] for source in free} == {0.0}
    assert {source.name: source.gradient_evaluations for source in listed(checkpoints=independent)}["held_out"] == 40


def test_gaussians_draw_running_variances_in_log_space_and_so_keep_them_positive(make, tiny_checkpoints):
    subset = ParameterSubset(("bn.weight", "bn.running_var"), ((30,), (30,)))
    vectors_KD = torch.cat([torch.randn(12, 30), torch.randn(12, 30).mul(3).exp()], dim=1)
    checkpoints = replace(tiny_checkpoints, rows=VectorRows([vectors_KD]), subset=subset)
    made = make(SourceOptions(num_baselines=400), checkpoints=checkpoints)
    for name in ("gaussian", "gaussian_full", "swag"):
        weight_MD, variance_MD = made[name]().split(30, dim=1)
        assert (variance_MD > 0).all() and (weight_MD < 0).any(), name
        mean_D = vectors_KD[:, 30:].log().mean(dim=0)
        torch.testing.assert_close(variance_MD.log().mean(dim=0), mean_D, rtol=0, atol=0.8)


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
    for name in ("noised_0.01", "average_4", "interpolated", "gaussian", "gaussian_full", "swag"):
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


def test_each_source_has_its_kind_its_splits_and_its_need_of_the_generator(listed, one_training):
    listing = listed(checkpoints=one_training)
    found = {source.name: (source.kind, source.splits, source.needs_generator) for source in listing}
    free = (Kind.FREE, ("val", "test"), False)
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
        "swag": free,
        "ema": free,
        "lawa": free,
        "continued": (Kind.TRAINED, ("val", "test"), False),
    }


def test_the_kind_of_a_source_is_inferred_from_its_name(listed, one_training, independent):
    for source in (*listed(checkpoints=one_training), *listed(checkpoints=independent)):
        assert infer_kind(source.name) is source.kind
    for name in ("finetuned", "finetuned_5", "laplace", "deep_ensemble"):
        assert infer_kind(name) is Kind.TRAINED
    assert infer_kind("soup_original") is infer_kind("soup_p_diff") is Kind.SOUP


@pytest.mark.parametrize("steps, lengths", [(5, [5]), ((50, 5), [5, 50]), ([7, 7], [7]), ([], [])])
def test_the_steps_of_fine_tuning_may_be_one_number_or_several(steps, lengths):
    assert SourceOptions(finetune_steps=steps).finetune_lengths == lengths


@pytest.mark.parametrize(
    "name, family",
    [("noised_0.05", "noised"), ("average_16", "average"), ("gaussian_full", "gaussian_full"), ("p_diff", "p_diff")],
)
def test_a_family_is_the_name_without_its_number(name, family):
    assert get_family(name) == family
