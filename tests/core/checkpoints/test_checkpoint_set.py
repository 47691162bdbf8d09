"""The file of checkpoints: contents, order, and errors that name the invalid value."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.vector_rows import VectorRows
from core.runtime.artifacts import open_artifact, save_artifact
from core.runtime.errors import UserError
from tests.core.tiny import damaged_copies


@pytest.fixture
def saved(tmp_path, tiny_checkpoints):
    path = tmp_path / "checkpoints.safetensors"
    tiny_checkpoints.save(path)
    return path


def test_everything_survives_the_disk_in_its_order(saved, tiny_checkpoints):
    loaded = CheckpointSet.load(saved)
    torch.testing.assert_close(loaded.vectors_KD, tiny_checkpoints.vectors_KD, rtol=0, atol=0)
    torch.testing.assert_close(loaded.accuracy_K, tiny_checkpoints.accuracy_K, rtol=0, atol=0)
    assert loaded.subset == tiny_checkpoints.subset and loaded.path == saved
    assert loaded.settings == tiny_checkpoints.settings and loaded.provenance == tiny_checkpoints.provenance
    assert loaded.network.keys() == tiny_checkpoints.network.keys()
    for name, tensor in tiny_checkpoints.network.items():
        torch.testing.assert_close(loaded.network[name], tensor, rtol=0, atol=0)


def test_a_vector_and_its_accuracy_stay_together_for_more_rows_than_sort_as_text(tmp_path, tiny_checkpoints):
    rows = 120  # enough rows that order by name as text ("10" before "2") would show
    many = replace(
        tiny_checkpoints,
        rows=VectorRows([torch.arange(rows).float()[:, None].repeat(1, 60)]),
        accuracy_K=torch.arange(rows) / rows,
    )
    many.save(tmp_path / "many.safetensors")
    loaded = CheckpointSet.load(tmp_path / "many.safetensors").first(99)
    torch.testing.assert_close(loaded.vectors_KD[:, 0] / rows, loaded.accuracy_K)
    assert torch.equal(loaded.vectors_KD[:, 0], torch.arange(99).float())


def test_the_first_k_are_a_set_of_their_own(tiny_checkpoints):
    origin_K2 = torch.stack([torch.zeros(12), torch.arange(12)], dim=1).long()
    held_out_HD = torch.randn(4, 60)
    state = {"0.weight": {"exp_avg": torch.ones(6, 5)}}
    whole = replace(tiny_checkpoints, origin_K2=origin_K2, held_out_HD=held_out_HD, optimizer_state=state)
    first = whole.first(5)
    assert first.optimizer_state is None and whole.first(12).optimizer_state is state
    assert torch.equal(first.origin_K2, origin_K2[:5]) and first.held_out_HD is held_out_HD
    assert len(first) == 5 and torch.equal(first.vectors_KD, tiny_checkpoints.vectors_KD[:5])
    assert torch.equal(first.accuracy_K, tiny_checkpoints.accuracy_K[:5]) and len(tiny_checkpoints) == 12


def test_the_whole_set_is_not_copied_and_numbers_are_read_once(saved, tiny_checkpoints, monkeypatch):
    assert tiny_checkpoints.first(12) is tiny_checkpoints
    loaded = CheckpointSet.load(saved)
    fingerprint = loaded.fingerprint
    monkeypatch.setattr(CheckpointSet, "check_vectors", lambda _: pytest.fail("checked again"))
    monkeypatch.setattr("hashlib.sha256", lambda *_: pytest.fail("hashed again"))
    assert loaded.first(12).fingerprint == fingerprint and len(replace(loaded, settings={}).first(5)) == 5


def test_the_history_of_the_training_is_kept_where_there_is_one(tmp_path, saved, tiny_checkpoints):
    history_ED = torch.randn(4, 60)
    path = tmp_path / "with_history.safetensors"
    replace(tiny_checkpoints, history_ED=history_ED).save(path)
    loaded = CheckpointSet.load(path)
    assert torch.equal(loaded.history_ED, history_ED) and torch.equal(loaded.first(3).history_ED, history_ED)
    assert CheckpointSet.load(saved).history_ED is None

    loaded.save_history(tmp_path / "history.npz")
    with np.load(tmp_path / "history.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["history_ED"], history_ED.numpy())
        assert tuple(file["names"].tolist()) == loaded.subset.names and file["sizes"].sum() == 60
    tiny_checkpoints.save_history(tmp_path / "none.npz")
    assert not (tmp_path / "none.npz").exists()


def test_more_than_there_are_is_refused_with_both_numbers(saved):
    with pytest.raises(UserError, match=r"task\.param\.k=13 .* holds 12 .*task\.param\.k=12") as error:
        CheckpointSet.load(saved).first(13)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("k", [1, 0, -3])
def test_fewer_than_two_are_no_distribution(tiny_checkpoints, k):
    with pytest.raises(UserError, match=rf"task\.param\.k={k} .*at least 2"):
        tiny_checkpoints.first(k)
    assert len(tiny_checkpoints.first(2)) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_named_by_row_and_tensor(tmp_path, tiny_checkpoints, value):
    vectors_KD = tiny_checkpoints.vectors_KD.clone()
    vectors_KD[7, 14] = value  # the first of 1.bias
    path = tmp_path / "bad.safetensors"
    with pytest.raises(UserError, match=rf"checkpoint 7 holds {value} in 1\.bias"):
        replace(tiny_checkpoints, rows=VectorRows([vectors_KD])).save(
            path
        )  # collecting and importing also end with `save`
    assert not path.exists()

    # A file written by another program may hold the same numbers.
    tiny_checkpoints.save(path)
    artifact = open_artifact(path, "checkpoints", versions=[2])
    save_artifact(
        path, "checkpoints", artifact.tensors | {"vectors": vectors_KD}, metadata=artifact.metadata, version=2
    )
    with pytest.raises(UserError, match=r"checkpoint 7 .* 1\.bias") as error:
        CheckpointSet.load(path)
    assert str(path) in str(error.value)


def test_a_held_out_number_that_is_not_finite_is_named_by_row_and_tensor(saved, tiny_checkpoints):
    held_out_HD = torch.zeros(40, 60)  # more rows than are checked at once
    held_out_HD[37, 14] = float("nan")  # the first of 1.bias
    artifact = open_artifact(saved, "checkpoints", versions=[2])
    tensors = artifact.tensors | {"held_out": held_out_HD}
    save_artifact(saved, "checkpoints", tensors, metadata=artifact.metadata, version=2)
    with pytest.raises(UserError, match=r"held-out checkpoint 37 holds nan in 1\.bias"):
        CheckpointSet.load(saved)
    path = saved.with_name("bad.safetensors")
    with pytest.raises(UserError, match="held-out checkpoint 37 "):
        replace(tiny_checkpoints, held_out_HD=held_out_HD).save(path)
    assert not path.exists()


def test_vectors_of_another_size_than_the_subset_are_refused_with_both(tiny_checkpoints):
    with pytest.raises(UserError, match=r"\(12, 59\) .* 60 numbers"):
        replace(tiny_checkpoints, rows=VectorRows([tiny_checkpoints.vectors_KD[:, :59]]))


def test_another_number_of_accuracies_than_of_vectors_is_refused_with_both(tiny_checkpoints):
    with pytest.raises(UserError, match=r"12 accuracies.* 11\b"):
        replace(tiny_checkpoints, accuracy_K=tiny_checkpoints.accuracy_K[:11])


@pytest.mark.parametrize("damage", ["empty", "half", "other content"])
def test_a_damaged_file_is_named(saved, damage):
    saved.write_bytes(dict(damaged_copies(saved))[damage])
    with pytest.raises(UserError, match=r"checkpoints\.safetensors is damaged"):
        CheckpointSet.load(saved)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"task_training\.py.*task\.param\.path=") as error:
        CheckpointSet.load(tmp_path / "absent.safetensors")
    assert str(tmp_path / "absent.safetensors") in str(error.value)


def test_a_generator_is_no_checkpoints_file(tmp_path, tiny_generator):
    tiny_generator.save(tmp_path / "generator.safetensors")
    with pytest.raises(UserError, match=r"generator\.safetensors .*checkpoints.*'generator'"):
        CheckpointSet.load(tmp_path / "generator.safetensors")


@pytest.mark.parametrize("part", ["vectors", "accuracy", "subset", "settings", "provenance"])
def test_a_file_that_lacks_a_part_is_refused_with_its_name(saved, part):
    artifact = open_artifact(saved, "checkpoints", versions=[2])
    tensors, metadata = (
        {name: value for name, value in parts.items() if name != part}
        for parts in (artifact.tensors, artifact.metadata)
    )
    save_artifact(saved, "checkpoints", tensors, metadata=metadata, version=2)
    with pytest.raises(UserError, match=f"lacks .*{part}") as error:
        CheckpointSet.load(saved)
    assert str(saved) in str(error.value)


def test_other_settings_are_named_by_what_one_types(saved):
    stored = CheckpointSet.load(saved)
    stored.require_settings(stored.settings)
    with pytest.raises(UserError, match=r"task\.seed=0 .*1 .*task\.model\.name=tiny .*resnet18") as error:
        stored.require_settings({"task": {"seed": 1, "model": {"name": "resnet18"}}})
    assert str(saved) in str(error.value)


def test_the_fingerprint_knows_the_content_and_nothing_else(saved, tiny_checkpoints):
    expected = tiny_checkpoints.fingerprint
    assert CheckpointSet.load(saved).fingerprint == expected
    network = dict(reversed(tiny_checkpoints.network.items()))
    assert replace(tiny_checkpoints, network=network, settings={}, provenance={}).fingerprint == expected


@pytest.mark.parametrize("change", ["rows swapped", "one number", "network", "fewer"])
def test_the_fingerprint_changes_with_the_content(tiny_checkpoints, change):
    vectors_KD, network = (
        tiny_checkpoints.vectors_KD.clone(),
        {name: tensor.clone() for name, tensor in tiny_checkpoints.network.items()},
    )
    if change == "rows swapped":
        vectors_KD = vectors_KD[[1, 0, *range(2, 12)]]
    elif change == "one number":
        vectors_KD[3, 4] += 1e-6
    elif change == "network":
        network["1.running_mean"][0] += 1
    other = replace(tiny_checkpoints, rows=VectorRows([vectors_KD]), network=network)
    if change == "fewer":
        other = other.first(11)
    assert other.fingerprint != tiny_checkpoints.fingerprint


def test_equal_checkpoints_have_no_distribution_to_learn(tiny_checkpoints):
    tiny_checkpoints.require_distinct()
    equal = replace(tiny_checkpoints, rows=VectorRows([tiny_checkpoints.vectors_KD[:1].repeat(12, 1)]))
    with pytest.raises(UserError, match=r"all 12 checkpoints in the set are equal, .*task\.collect\.optimizer\.lr"):
        equal.require_distinct()
