"""Images for generation: the same noise at every visit, a feature network made of training images, and mistakes."""

import pytest
import torch

from core.runtime.errors import UserError
from core.runtime.seeding import reseed
from tasks.data import feature_networks, noisy_images
from tasks.data.splits import DataOptions
from tests.pipeline.conftest import assert_names
from tests.tasks.archives import write_cifar10


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    monkeypatch.setitem(feature_networks.TRAINING, "steps", 2)


def load(root, **options):
    return noisy_images.load_digit_images(DataOptions("digits_generation", root=str(root), **options))


def load_cifar10(root):
    return noisy_images.load_cifar10(DataOptions("cifar10_generation", root=str(root), verify=False))


def test_digits_have_their_own_pixels_and_the_splits_of_the_dataset_digits(tmp_path):
    data = load(tmp_path)
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [9000, 300, 597]
    planes, image = data.val[3]
    assert planes.shape == (4, 1, 8, 8) and torch.equal(planes[0], image)
    assert image.min() >= -1 and image.max() <= 1 and ((image + 1) * 8).frac().abs().max() == 0  # 17 shades
    assert planes[2].unique().numel() == 1 and 0 <= planes[2].max() < 1000
    assert data.objective.metric.name == "FID" and not data.objective.metric.higher_is_better
    for word in ("32 features", "not comparable with published FID", "597"):
        assert word in data.objective.metric.note


def test_the_noise_of_validation_is_fixed_and_that_of_training_is_new(tmp_path):
    one, other = load(tmp_path), load(tmp_path)
    assert torch.equal(one.val[5][0], other.val[5][0]) and torch.equal(one.test[5][0], one.test[5][0])
    assert not torch.equal(one.val[5][0][3], one.val[6][0][3]) and not torch.equal(one.val[5][0][3], one.test[5][0][3])
    assert not torch.equal(one.train[5][0][1], one.train[5][0][1])
    assert one.fingerprint() == other.fingerprint() and one.digests == other.digests
    assert one.preparation == other.preparation


def test_the_feature_network_is_trained_once_and_sees_training_images_alone(tmp_path, monkeypatch):
    seen, train = [], feature_networks.fit_classifier
    monkeypatch.setattr(
        feature_networks,
        "fit_classifier",
        lambda net, images, seed: seen.append(images) or train(net, images, seed=seed),
    )
    reseed(1, torch.device("cpu"))
    first, second = load(tmp_path / "a"), load(tmp_path / "a")
    reseed(2, torch.device("cpu"))
    third = load(tmp_path / "b")
    assert len(seen) == 2 and len(seen[0]) == 900 and seen[0] is first.train.images
    assert first.objective.record() == second.objective.record() == third.objective.record()
    assert load(tmp_path / "a", split_seed=1).objective.record() != first.objective.record()


def test_a_changed_feature_network_is_refused(tmp_path):
    load(tmp_path)
    (path,) = (tmp_path / "feature_networks").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    assert_names(str(refused.value), path.name)


def test_cifar10_is_read_in_its_own_format(tmp_path):
    write_cifar10(tmp_path)
    data = load_cifar10(tmp_path)
    planes, image = data.train[0]
    assert planes.shape == (4, 3, 32, 32) and image.min() >= -1 and image.max() <= 1
    assert data.facts == {"num_classes": 10, "channels": 3, "image_size": 32}
    assert data.provenance["normalization"] == {"mean": [0.5], "std": [0.5]}
    assert data.objective.features(image[None]).shape == (1, 32)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"diffusion": {"features": "inceptoin"}}, ["task.data.diffusion.features=inceptoin", "inception"]),
        ({"diffusion": {"sampling_steps": 61}}, ["task.data.diffusion.sampling_steps=61", 1000, "40", "50"]),
        ({"diffusion": {"num_timesteps": 100, "sampling_steps": 10}}, ["task.data.diffusion.num_timesteps=100", 700]),
        ({"diffusion": {"sampling_steps": 0}}, ["task.data.diffusion.sampling_steps=0"]),
        ({"diffusion": {"num_timesteps": 1.5}}, ["task.data.diffusion.num_timesteps=1.5"]),
        ({"diffusion": {"steps": 3}}, ["task.data.diffusion.steps"]),
        ({"mean": [0.5], "std": [0.5]}, ["task.data.mean"]),
    ],
)
def test_a_mistake_ends_in_one_sentence(tmp_path, options, told):
    with pytest.raises(UserError) as refused:
        load(tmp_path, **options)
    assert_names(str(refused.value), *told)
    assert "\n" not in str(refused.value)


def test_too_few_images_are_refused_before_any_training(tmp_path, monkeypatch):
    write_cifar10(tmp_path, per_class=2)
    monkeypatch.delattr(feature_networks, "fit_classifier")
    with pytest.raises(UserError) as refused:
        load_cifar10(tmp_path)
    assert_names(str(refused.value), "val", 10, 33)
