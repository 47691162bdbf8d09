"""Score tables on disk, and selection of a model by its scores."""

import re
from dataclasses import replace

import numpy as np
import pytest

from core.evaluation.kinds import Kind
from core.evaluation.scores import ACCURACY, Metric, Scores, ScoreTable
from core.runtime.arrays import save_arrays
from core.runtime.errors import UserError
from tests.core.evaluation.tables import scores, table, votes
from tests.core.tiny import change_array, damaged_copies


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "scores" / "noised_0.05.npz"
    table("noised_0.05", scores([0.5, 0.9, 0.7]), scores([0.4, 0.8, 0.6], num_images=16, seed=1)).save(path)
    return path


@pytest.mark.parametrize("num_images", [1, 8, 13, 40])  # Masks are packed into bytes of eight images.
def test_a_table_survives_the_disk(tmp_path, num_images):
    before = table(
        "p_diff", scores([0.5, 0.9, 0.7], num_images=num_images), scores([0.4, 0.8, 0.6], num_images=7, seed=1)
    )
    before.save(tmp_path / "p_diff.npz")
    after = ScoreTable.load(tmp_path / "p_diff.npz")
    assert (after.source, after.identity, after.seconds, set(after.scores)) == ("p_diff", "id", 1.5, {"test", "val"})
    np.testing.assert_array_equal(after.vectors_MD, before.vectors_MD)
    for split in ("test", "val"):
        for name in ("accuracy_M", "loss_M", "wrong_MN"):
            loaded, kept = getattr(after.scores[split], name), getattr(before.scores[split], name)
            np.testing.assert_array_equal(loaded, kept)
            assert loaded.dtype == kept.dtype and loaded.shape == kept.shape


def test_optional_parts_of_a_table_survive_the_disk_or_stay_absent(tmp_path, saved):
    ece_M, latents_ML = np.array([0.1, 0.2]), np.arange(6, dtype=np.float32).reshape(2, 3)
    loss_MN, groups_N = np.float16([[0.5, np.nan], [1, 2]]), np.array([4, 4])
    test = replace(scores([0.5, 0.9]), ece_M=ece_M, votes=votes(0.9), loss_MN=loss_MN, groups_N=groups_N)
    val = replace(scores([0.5, 0.9]), votes=votes(0.8, fitted_P=np.array([1.5, 1.2, 0.9])))
    ood = {"splices": np.float32([[0.5, 0.7]]), "svhn": np.float32([[0.25]])}
    replace(table("p_diff", test, val), latents_ML=latents_ML, ood=ood).save(tmp_path / "p_diff.npz")
    loaded = ScoreTable.load(tmp_path / "p_diff.npz")
    pairs = {
        "latents": (loaded.latents_ML, latents_ML),
        "ece": (loaded.scores["test"].ece_M, ece_M),
        "loss": (loaded.scores["test"].loss_MN, loss_MN),
        "groups": (loaded.scores["test"].groups_N, groups_N),
        **{name: (loaded.ood[name], array) for name, array in ood.items()},
    }
    for split, expected in (("test", test.votes), ("val", val.votes)):
        found = vars(loaded.scores[split].votes)
        pairs |= {f"{split} {name}": (found[name], array) for name, array in vars(expected).items()}
    for name, (found, expected) in pairs.items():
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert getattr(found, "dtype", None) == getattr(expected, "dtype", None), name
    assert set(loaded.ood) == set(ood) and loaded.scores["test"].votes.fitted_P is None
    for scored in (ScoreTable.load(saved).scores["val"], ScoreTable.load(saved).scores["test"]):
        assert (scored.ece_M, scored.votes, scored.loss_MN, scored.groups_N) == (None, None, None, None)
    assert ScoreTable.load(saved).latents_ML is None and ScoreTable.load(saved).ood == {}


def test_the_vote_in_a_file_of_an_earlier_version_is_ignored(saved):
    with np.load(saved) as file:
        arrays = {name: array for name, array in file.items() if name != "sha256"}
    save_arrays(saved, arrays | {"test/vote": np.array([0.9, 0.25, 0.03])})
    loaded = ScoreTable.load(saved).scores["test"]
    assert loaded.votes is None and len(loaded.accuracy_M) == 3


def test_votes_without_one_of_their_arrays_are_damage(tmp_path):
    path = tmp_path / "p_diff.npz"
    table("p_diff", replace(scores([0.5, 0.9]), votes=votes(0.9))).save(path)
    with np.load(path) as file:
        arrays = {name: array for name, array in file.items() if name not in ("sha256", "test/votes/brier_PN")}
    save_arrays(path, arrays)
    with pytest.raises(UserError, match=r"p_diff\.npz .*brier_PN"):
        ScoreTable.load(path)


def test_a_task_without_wrong_images_has_no_mask(tmp_path):
    table("p_diff", scores([0.5, 0.9], with_wrong=False)).save(tmp_path / "p_diff.npz")
    assert ScoreTable.load(tmp_path / "p_diff.npz").scores["test"].wrong_MN is None


def test_a_source_with_a_dot_keeps_its_name(saved):
    assert ScoreTable.load(saved).source == "noised_0.05"


@pytest.mark.parametrize("damage", ["empty", "cut inside the header", "half", "last byte missing", "other content"])
def test_a_damaged_file_is_named(saved, damage):
    saved.write_bytes(dict(damaged_copies(saved))[damage])
    with pytest.raises(UserError, match=re.escape(str(saved))):
        ScoreTable.load(saved)


@pytest.mark.parametrize(
    "name", ["identity", "seconds", "vectors", "splits", "val/accuracy", "test/loss", "test/wrong", "val/num_images"]
)
def test_a_changed_array_is_named(saved, name):
    change_array(saved, name)
    with pytest.raises(UserError, match=rf"noised_0\.05\.npz \(array {name} "):
        ScoreTable.load(saved)


def test_a_foreign_file_is_named(saved):
    for save in (lambda: np.savez(saved, other=np.zeros(3)), lambda: np.save(saved.open("wb"), np.zeros(3))):
        save()
        with pytest.raises(UserError, match=r"noised_0\.05\.npz"):
            ScoreTable.load(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.npz"):
        ScoreTable.load(tmp_path / "absent.npz")


def test_a_file_that_would_run_code_is_refused(saved):
    np.savez(saved, splits=np.array(["test"], dtype=object), vectors=np.zeros(3))
    with pytest.raises(UserError, match=r"noised_0\.05\.npz"):
        ScoreTable.load(saved)


def test_a_full_disk_keeps_the_old_table(saved, full_disk):
    before = saved.read_bytes()
    with full_disk(), pytest.raises(UserError, match=r"noised_0\.05\.npz"):
        table("noised_0.05", scores([0.5] * 5000)).save(saved)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == [saved.name]


def made(accuracy, loss, metric=ACCURACY) -> Scores:
    return Scores(np.array(accuracy), np.array(loss), None, metric=metric)


def test_the_best_model_has_the_highest_accuracy_and_among_equals_the_lowest_loss():
    assert made([0.5, 0.9, 0.7], [0.1, 9.0, 0.1]).pick_best() == 1
    assert made([0.9, 0.5, 0.9, 0.9], [0.3, 0.1, 0.2, 0.4]).pick_best() == 2
    assert made([0.5], [1.0]).pick_best() == 0


def test_the_least_loss_and_among_equals_the_highest_accuracy():
    assert made([0.9, 0.5, 0.7], [0.2, 0.1, 0.3]).pick_least_loss() == 1
    assert made([0.5, 0.9, 0.7], [0.1, 0.1, 0.1]).pick_least_loss() == 1


@pytest.mark.parametrize("choose", [Scores.pick_best, Scores.pick_least_loss])
def test_a_model_that_diverged_is_chosen_last(choose):
    assert choose(made([0.5, 0.5], [np.nan, 3.0])) == 1


DISTANCE = Metric("fid", "distance", higher_is_better=False)


def test_the_lowest_value_is_the_best_if_lower_is_better():
    scored = made([3.0, 1.0, 2.0, 1.0], [0.1, 0.3, 0.1, 0.2], DISTANCE)
    assert scored.rank().tolist() == [3, 1, 2, 0] and scored.pick_best() == 3 and scored.pick_least_loss() == 2
    assert (DISTANCE.sign, ACCURACY.sign) == (-1, 1)


def test_wrong_images_are_required_to_be_known():
    with pytest.raises(ValueError, match="wrong_MN"):
        made([0.5], [1.0]).require_wrong()
    known = scores([0.5, 0.9])
    assert known.require_wrong() is known.wrong_MN


def test_another_metric_survives_the_disk_and_accuracy_adds_nothing_to_the_file(tmp_path, saved):
    table("p_diff", made([3.0, 1.0], [0.1, 0.2], DISTANCE)).save(tmp_path / "p_diff.npz")
    assert ScoreTable.load(tmp_path / "p_diff.npz").scores["test"].metric == DISTANCE
    assert ScoreTable.load(saved).scores["test"].metric == ACCURACY
    with np.load(saved, allow_pickle=False) as file:
        assert not any("metric" in name for name in file)


def test_the_kind_of_a_table_is_stored_or_else_inferred_from_its_name(tmp_path, saved):
    assert ScoreTable.load(saved).kind is Kind.FREE and ScoreTable.load(saved).stored_kind is None
    replace(ScoreTable.load(saved), stored_kind=Kind.TRAINED).save(tmp_path / "own_name.npz")
    assert ScoreTable.load(tmp_path / "own_name.npz").kind is Kind.TRAINED
