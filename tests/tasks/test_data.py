"""Splits: disjoint, stratified, fixed; real loaders on archives in their true formats."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from core.runtime.errors import UserError
from tasks.data import digits
from tasks.data.datasets import load_images
from tasks.data.splits import DataOptions, carve_validation
from tests.tasks.archives import write_cifar10, write_cifar100


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Where there is a network, too, nothing is downloaded by a test."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture(scope="module")
def digit_images():
    return load_images(DataOptions("digits", root="unused"))


def test_digits_have_the_documented_sizes(digit_images):
    assert (len(digit_images.train), len(digit_images.val), len(digit_images.test)) == (900, 300, 2391)
    image, label = digit_images.train[0]
    assert image.shape == (1, 16, 16) and image.dtype == torch.float32 and 0 <= label <= 9


def test_digits_splits_share_no_original_image(monkeypatch):
    monkeypatch.setattr(digits, "distort", lambda image: image)  # without distortion, a shared original is an equal image
    data = digits.load(DataOptions("digits", root="unused"))
    seen = [{image.numpy().tobytes() for image, _ in split} for split in (data.train, data.val, data.test)]
    in_common = len(np.unique(load_digits().images, axis=0))
    assert sum(map(len, seen)) == in_common, "an original is in two splits"


def test_digits_are_stratified(digit_images):
    for split in (digit_images.train, digit_images.val, digit_images.test):
        shares = np.bincount([label for _, label in split]) / len(split)
        assert shares.min() > 0.085 and shares.max() < 0.115


def test_fixed_splits_are_the_same_at_every_load_and_training_images_are_not(digit_images):
    again = load_images(DataOptions("digits", root="unused"))
    assert torch.equal(again.test[5][0], digit_images.test[5][0])
    assert again.fingerprint() == digit_images.fingerprint()
    assert not torch.equal(digit_images.train[5][0], digit_images.train[5][0])


def test_loading_fixed_splits_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_images(DataOptions("digits", root="unused"))
    assert torch.equal(torch.rand(1), expected)


def test_validation_takes_some_of_every_class_and_nothing_twice():
    labels = [0] * 50 + [1] * 8 + [2] * 3
    train, val = carve_validation(labels, fraction=0.1, seed=0)
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(61))
    assert np.bincount(np.array(labels)[val]).tolist() == [5, 1, 1]


def test_validation_depends_on_its_seed_only():
    labels = np.arange(100) % 10
    assert np.array_equal(carve_validation(labels, 0.2, seed=1)[1], carve_validation(labels, 0.2, seed=1)[1])
    assert not np.array_equal(carve_validation(labels, 0.2, seed=1)[1], carve_validation(labels, 0.2, seed=2)[1])


@pytest.mark.parametrize("dataset, write, num_classes", [("cifar10", write_cifar10, 10), ("cifar100", write_cifar100, 100)])
def test_cifar_is_read_from_its_archive(tmp_path, dataset, write, num_classes):
    write(tmp_path)
    data = load_images(DataOptions(dataset, root=str(tmp_path), verify=False))
    assert data.facts == {"num_classes": num_classes, "channels": 3, "image_size": 32}
    assert data.train[0][0].shape == (3, 32, 32)
    assert {label for _, label in data.val} == set(range(num_classes))
    assert len(data.train) + len(data.val) == len(data.train.images)


def test_validation_images_are_not_augmented(tmp_path):
    write_cifar10(tmp_path)
    data = load_images(DataOptions("cifar10", root=str(tmp_path), verify=False))
    assert torch.equal(data.val[0][0], data.val[0][0])
    assert any(not torch.equal(data.train[index][0], data.train[index][0]) for index in range(10))


def test_another_image_size_is_obeyed(tmp_path):
    write_cifar10(tmp_path)
    data = load_images(DataOptions("cifar10", root=str(tmp_path), verify=False, image_size=48))
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 48, 48)
    assert data.facts["image_size"] == 48


def test_an_archive_with_other_images_is_refused_unless_allowed(tmp_path):
    write_cifar100(tmp_path)
    with pytest.raises(UserError, match="task.data.verify=false"):
        load_images(DataOptions("cifar100", root=str(tmp_path)))


def test_missing_data_names_the_folder_and_the_override(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}.*task.data.root=") as error:
        load_images(DataOptions("cifar10", root=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_an_unknown_dataset_is_refused_with_near_names():
    with pytest.raises(UserError, match="'cifar1O0'.*did you mean .*cifar100"):
        load_images(DataOptions("cifar1O0", root="unused"))
