"""Datasets: disjoint, stratified and fixed splits, read from archives in their published formats."""

from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data import digits
from tasks.data.datasets import CIFAR10_COLORS, DATASETS, load_images
from tasks.data.digests import read_labels
from tasks.data.splits import ColorNormalizer, DataOptions, carve_validation
from tasks.data.torchvision_sets import IMAGENET_COLORS
from tasks.networks.build import ModelSpec
from tasks.task import open_images
from tests.tasks import archives
from tests.tasks.archives import write_cifar10, write_imagefolder
from tests.tasks.tiny import steps_config, task_spec


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse every download, also on machines with an internet connection."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture(scope="module")
def digit_images():
    return load_images(DataOptions("digits", root="unused"))


def test_digits_have_the_documented_sizes(digit_images):
    assert (len(digit_images.train), len(digit_images.val), len(digit_images.test)) == (900, 900, 1791)
    assert {name: len(images) for name, images in digit_images.ood.items()} == {"phase_scrambled": 300, "splices": 300}
    image, label = digit_images.train[0]
    assert image.shape == (1, 16, 16) and image.dtype == torch.float32 and 0 <= label <= 9


def test_digits_splits_share_no_digit(monkeypatch):
    monkeypatch.setattr(digits, "DISTORTIONS", [v2.Identity()])  # then all copies of one digit are equal
    data = digits.load(DataOptions("digits", root="unused"))
    seen = [{image.numpy().tobytes() for image, _ in split} for split in (data.train, data.val, data.test)]
    num_different = len(np.unique(load_digits().images, axis=0))
    assert sum(map(len, seen)) == num_different, "a digit is in two splits"
    for split, name in ((data.val, "val"), (data.test, "test")):  # the copies of a digit are equal, and of one group
        copies = {
            (int(group), image.numpy().tobytes()) for group, (image, _) in zip(data.groups[name], split, strict=True)
        }
        assert len(copies) == len(np.unique(data.groups[name])) == len(split) / 3
    assert not set(data.groups["val"]) & set(data.groups["test"])


# The digest of the training images of each split seed, recorded when validation had 100 digits.
@pytest.mark.parametrize("seed, digest", enumerate(["90dc2399245b12f5", "1b1fce7bfa44a59e", "6d1adcf4e5c1ee68"]))
def test_training_digits_are_those_of_earlier_versions(seed, digest, monkeypatch):
    monkeypatch.setattr(digits, "COPIES", 1)  # a third of the time
    assert load_images(DataOptions("digits", root="unused", split_seed=seed)).digests["train"] == digest


def test_groups_name_the_digit_that_each_copy_shows(digit_images):
    targets = load_digits().target
    for name in ("val", "test"):
        groups_N, split = digit_images.groups[name], digit_images.split(name)
        assert groups_N.dtype == np.int64 and groups_N.shape == (len(split),)
        assert np.array_equal(targets[groups_N], split.tensors[1])
        assert (np.bincount(groups_N)[np.unique(groups_N)] == 3).all() and (groups_N[::3] == groups_N[2::3]).all()
    assert "train" not in digit_images.groups


def test_images_without_a_class_are_fixed_by_the_split_seed_and_look_like_test_images(digit_images):
    again = load_images(DataOptions("digits", root="unused"))
    other = load_images(DataOptions("digits", root="unused", split_seed=1))
    test_NCSS = digit_images.test.tensors[0]
    for name, (images_NCSS, labels_N) in ((name, split.tensors) for name, split in digit_images.ood.items()):
        assert torch.equal(images_NCSS, again.ood[name].tensors[0]) and not labels_N.any()
        assert not torch.equal(images_NCSS, other.ood[name].tensors[0])
        assert images_NCSS.dtype == torch.float32 and images_NCSS.shape[1:] == test_NCSS.shape[1:]
        for measure in (torch.mean, torch.std):
            torch.testing.assert_close(measure(images_NCSS), measure(test_NCSS), atol=0.02, rtol=0)
        assert images_NCSS.min() > -1.5 and images_NCSS.max() < 2
    assert again.ood_digests == digit_images.ood_digests != other.ood_digests


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


FACTS = {  # dataset: (classes, channels, size), (train and validation together, test)
    "mnist": ((10, 1, 28), (80, 20)),
    "cifar10": ((10, 3, 32), (400, 80)),
    "cifar100": ((100, 3, 32), (800, 200)),
    "svhn": ((10, 3, 32), (80, 20)),
    "stl10": ((10, 3, 96), (80, 20)),
    "flowers102": ((102, 3, 224), (204, 102)),
    "pets": ((37, 3, 224), (111, 111)),
    "food101": ((101, 3, 224), (202, 202)),
    "imagenet": ((1000, 3, 224), (12, 8)),
    "imagefolder": ((3, 3, 224), (12, 12)),
}


SCENES = {  # datasets without classes of images, whose files these modules test
    "coco_detection": "test_coco.py",
    "coco_segmentation": "test_coco.py",
    "voc_segmentation": "test_voc.py",
    "digit_scenes_detection": "test_digit_scenes.py",
    "digits_generation": "test_noisy_images.py",
    "cifar10_generation": "test_noisy_images.py",
    "digit_scenes_segmentation": "test_digit_scenes.py",
}


def test_every_dataset_is_tested_here_or_in_its_own_module():
    assert {*FACTS, "digits", *SCENES} == set(DATASETS)
    for dataset, module in SCENES.items():
        function = getattr(DATASETS[dataset], "__name__", "")
        assert f"{function}(" in (Path(__file__).parent / module).read_text()


@pytest.mark.parametrize("dataset", FACTS)
def test_a_dataset_is_read_from_its_archive(tmp_path, dataset):
    (num_classes, channels, size), (num_train, num_test) = FACTS[dataset]
    getattr(archives, f"write_{dataset}")(tmp_path)
    data = load_images(DataOptions(dataset, root=str(tmp_path), verify=False))
    assert data.facts == {"num_classes": num_classes, "channels": channels, "image_size": size}
    assert (len(data.train) + len(data.val), len(data.test)) == (num_train, num_test)
    assert not set(np.asarray(data.train.indices)) & set(np.asarray(data.val.indices)), "validation is trained on"
    for split in (data.train, data.val, data.test):
        image, label = split[0]
        assert image.shape == (channels, size, size) and image.dtype == torch.uint8
        assert type(label) is int and 0 <= label < num_classes
    assert torch.equal(data.val[0][0], data.val[0][0]) and torch.equal(data.test[0][0], data.test[0][0])
    assert any(not torch.equal(data.train[index][0], data.train[index][0]) for index in range(8)), (
        "training images are not augmented"
    )


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "imagefolder"])
def test_images_are_normalized_as_asked(tmp_path, dataset):
    if dataset != "digits":
        getattr(archives, f"write_{dataset}")(tmp_path)
    options = {"dataset": dataset, "root": str(tmp_path), "verify": False}
    plain = load_images(DataOptions(**options, mean=[0.0], std=[1.0]))
    asked = load_images(DataOptions(**options, mean=[0.25] * plain.facts["channels"], std=[0.5]))
    image = asked.test[3][0]
    torch.testing.assert_close(asked.make_normalizer()(image), (plain.make_normalizer()(image) - 0.25) / 0.5)
    assert asked.provenance["normalization"] == {
        "mean": [0.25] * plain.facts["channels"],
        "std": [0.5] * plain.facts["channels"],
    }


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 3, 5, 5)])
def test_normalizing_on_the_device_gives_the_numbers_of_torchvision_to_the_last_digit(shape):
    images, colors = torch.randint(256, shape, dtype=torch.uint8), ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
    by_torchvision = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*colors)])
    assert torch.equal(ColorNormalizer(colors)(images), by_torchvision(images))
    assert torch.equal(ColorNormalizer(colors)(images / 255), v2.Normalize(*colors)(images / 255))


def test_pretrained_weights_bring_their_normalization_unless_another_is_asked_for(tmp_path):
    archives.write_cifar10(tmp_path)
    archives.write_mnist(tmp_path)

    def normalization(dataset, model, **data):
        options = DataOptions(dataset, root=str(tmp_path), verify=False, **data)
        task = replace(task_spec(steps_config()), data=options, model=ModelSpec(**model))
        return open_images(task).provenance["normalization"]["mean"]

    vit = {"name": "vit_tiny_patch16_224", "pretrained": True}  # trained with other colors than ImageNet's
    assert normalization("cifar10", vit) == [0.5, 0.5, 0.5]
    assert normalization("cifar10", {"name": "resnet18", "pretrained": True}) == list(IMAGENET_COLORS[0])
    assert (
        normalization("cifar10", {**vit, "pretrained": False})
        == normalization("cifar10", {"name": "my:net", "pretrained": True})
        == list(CIFAR10_COLORS[0])
    )
    assert normalization("cifar10", vit, mean=[0.1], std=[1.0]) == [0.1, 0.1, 0.1]
    assert len(normalization("mnist", vit)) == 1, "these colors have another number of channels"


@pytest.mark.parametrize(
    "colors",
    [
        {"mean": [0.5]},
        {"mean": [0.5, 0.5], "std": [1, 1]},
        {"mean": 0.5, "std": 0.5},
        {"mean": ["a"], "std": [1]},
        {"mean": [0], "std": [0]},
    ],
)
def test_an_impossible_normalization_is_refused(tmp_path, colors):
    archives.write_cifar10(tmp_path)
    with pytest.raises(UserError, match=r"task\.data\.mean=.* task\.data\.std=.* 1 or 3 "):
        load_images(DataOptions("cifar10", root=str(tmp_path), verify=False, **colors))


@pytest.mark.parametrize("dataset", FACTS)
def test_labels_are_known_without_opening_images_and_are_those_of_the_items(tmp_path, dataset):
    getattr(archives, f"write_{dataset}")(tmp_path)
    data = load_images(DataOptions(dataset, root=str(tmp_path), verify=False))
    for split in (data.train, data.test):
        known = read_labels(split.images)
        assert [int(known[index]) for index in np.asarray(split.indices)[:6]] == [split[item][1] for item in range(6)]


@pytest.mark.parametrize("dataset", [name for name in FACTS if name != "imagefolder"])
def test_an_archive_with_other_images_is_refused_unless_allowed(tmp_path, dataset):
    getattr(archives, f"write_{dataset}")(tmp_path)
    with pytest.raises(UserError, match=f"task.data.dataset={dataset} .*{tmp_path}"):
        load_images(DataOptions(dataset, root=str(tmp_path)))
    load_images(DataOptions(dataset, root=str(tmp_path), verify=False))


@pytest.mark.parametrize("dataset", FACTS)
def test_missing_images_are_one_line_with_the_folder_and_the_option_to_set(tmp_path, dataset):
    expected = f"task.data.dataset={dataset} could not be opened in {tmp_path}: .*missing.*[sS]et task.data.root=FOLDER"
    with pytest.raises(UserError, match=expected) as error:
        load_images(DataOptions(dataset, root=str(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dataset", ["pets", "flowers102", "food101"])
def test_an_image_missing_after_an_interrupted_download_is_named(tmp_path, dataset):
    getattr(archives, f"write_{dataset}")(tmp_path)
    options = DataOptions(dataset, root=str(tmp_path), verify=False)
    load_images(options)
    for image in sorted(tmp_path.rglob("*.jpg")):
        image.unlink()
    data = load_images(options)  # torchvision checks that the folder exists, but not the images in it
    with pytest.raises(UserError, match=rf"{tmp_path}.*\.jpg.* delete its folder"):
        data.test[0]


def test_the_error_about_missing_imagenet_names_the_archives(tmp_path):
    with pytest.raises(UserError) as error:
        load_images(DataOptions("imagenet", root=str(tmp_path)))
    for archive in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        assert archive in str(error.value)


def test_checksums_are_compared_again_after_an_unverified_archive(tmp_path):
    write_cifar10(tmp_path / "first")
    write_cifar10(tmp_path / "second")
    load_images(DataOptions("cifar10", root=str(tmp_path / "first"), verify=False))
    with pytest.raises(UserError, match=f"{tmp_path}/second.* task.data.verify=false"):
        load_images(DataOptions("cifar10", root=str(tmp_path / "second")))


def test_digits_are_never_mirrored(tmp_path):
    for dataset in ("mnist", "svhn"):
        getattr(archives, f"write_{dataset}")(tmp_path)
        data = load_images(DataOptions(dataset, root=str(tmp_path), verify=False))
        assert "Flip" not in repr(data.train.transform)


def test_test_images_are_split_off_a_folder_without_splits(tmp_path):
    write_imagefolder(tmp_path, splits=(), per_class=20)
    data = load_images(DataOptions("imagefolder", root=str(tmp_path), image_size=32))
    assert (len(data.train), len(data.val), len(data.test)) == (48, 6, 6)
    train_files, test_files = (
        {split.images.dataset.samples[index][0] for index in split.images.indices} for split in (data.train, data.test)
    )
    assert not train_files & test_files and {label for _, label in data.test} == {0, 1, 2}


def test_a_folder_of_validation_images_is_used_for_validation(tmp_path):
    write_imagefolder(tmp_path, splits=("train", "val", "test"))
    data = load_images(DataOptions("imagefolder", root=str(tmp_path), image_size=32))
    assert (len(data.train), len(data.val), len(data.test)) == (12, 12, 12)
    assert data.val.images.root.name == "val"


def test_splits_with_different_classes_are_refused(tmp_path):
    write_imagefolder(tmp_path, splits=("train",))
    write_imagefolder(tmp_path, splits=("test",), classes=("cat", "dog", "ox"))
    with pytest.raises(UserError, match=f"folder owl is in {tmp_path}/train but not in {tmp_path}/test") as error:
        load_images(DataOptions("imagefolder", root=str(tmp_path)))
    assert f"remove {tmp_path}/train/owl" in str(error.value)


def test_a_class_of_the_test_images_alone_is_refused(tmp_path):
    write_imagefolder(tmp_path, splits=("train",), classes=("cat", "owl"))
    write_imagefolder(tmp_path, splits=("test",), classes=("cat", "dog", "owl"))
    with pytest.raises(UserError, match=f"folder dog is in {tmp_path}/test but not in {tmp_path}/train"):
        load_images(DataOptions("imagefolder", root=str(tmp_path)))


def test_a_folder_of_test_images_alone_is_not_taken_for_a_class(tmp_path):
    write_imagefolder(tmp_path, splits=("test", "val"))
    with pytest.raises(UserError, match=f"{tmp_path} has .*test/.* no .*train/.*task.data.root=FOLDER"):
        load_images(DataOptions("imagefolder", root=str(tmp_path)))


@pytest.mark.parametrize("splits, per_class, needed", [((), 2, 3), (("train", "test"), 1, 2)])
def test_a_class_too_small_for_its_splits_is_refused(tmp_path, splits, per_class, needed):
    write_imagefolder(tmp_path, splits=splits, per_class=per_class)
    with pytest.raises(UserError, match=f"'cat' has {per_class} images in .*at least {needed}.*{tmp_path}.*/cat"):
        load_images(DataOptions("imagefolder", root=str(tmp_path)))


def test_a_file_that_is_not_an_image_is_named(tmp_path):
    write_imagefolder(tmp_path)
    damaged = next((tmp_path / "test/cat").iterdir())
    damaged.write_bytes(b"no image")
    data = load_images(DataOptions("imagefolder", root=str(tmp_path), image_size=32))
    with pytest.raises(UserError, match=f"{damaged} cannot be read as an image.* Remove "):
        list(data.test)


def test_validation_images_are_not_augmented(tmp_path):
    write_cifar10(tmp_path)
    data = load_images(DataOptions("cifar10", root=str(tmp_path), verify=False))
    assert torch.equal(data.val[0][0], data.val[0][0])
    assert any(not torch.equal(data.train[index][0], data.train[index][0]) for index in range(10))


def test_images_are_resized_to_the_configured_size(tmp_path):
    write_cifar10(tmp_path)
    data = load_images(DataOptions("cifar10", root=str(tmp_path), verify=False, image_size=48))
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 48, 48)
    assert data.facts["image_size"] == 48


def test_an_unknown_dataset_is_refused_with_similar_names():
    with pytest.raises(UserError, match=r"task\.data\.dataset=cifar1O0 .*cifar100"):
        load_images(DataOptions("cifar1O0", root="unused"))


@pytest.mark.parametrize("dataset", [name for name in FACTS if name not in ("imagefolder", "svhn")])
def test_a_truncated_archive_is_refused_in_one_line(tmp_path, dataset):
    getattr(archives, f"write_{dataset}")(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.suffix in (".gz", ".tgz", ".tar")]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"task.data.dataset={dataset} .*{tmp_path}") as error:
        load_images(DataOptions(dataset, root=str(tmp_path), verify=False))
    assert "\n" not in str(error.value)
