"""Images of other datasets (`evaluation.ood`): their form, their folder, and the names that are refused."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from core.runtime.errors import UserError
from tasks.data import other_datasets
from tasks.data.datasets import load_images
from tasks.data.other_datasets import add_other_datasets
from tasks.data.splits import DataOptions, gather_labeled_images
from tests.tasks import archives


@pytest.fixture(scope="module")
def digit_images():
    return load_images(DataOptions("digits", root="unused"))


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the archives of SVHN and MNIST, as task.data.root."""
    archives.write_svhn(tmp_path)
    archives.write_mnist(tmp_path)
    return tmp_path


def options(folder, dataset="digits", **others):
    return DataOptions(dataset, root=str(folder), verify=False, **others)


def read(images):
    """Return all images (N, C, S, S) and labels of a dataset."""
    items = [images[index] for index in range(len(images))]
    return torch.stack([image for image, _ in items]), [label for _, label in items]


def test_images_get_the_form_of_the_task_and_the_label_0(folder, digit_images):
    data = add_other_datasets(digit_images, options(folder), ["svhn"])
    assert list(data.ood) == ["phase_scrambled", "splices", "svhn"] and list(digit_images.ood) == list(data.ood)[:2]
    images_NCSS, labels = read(data.ood["svhn"])
    assert images_NCSS.shape == (20, 1, 16, 16) and images_NCSS.dtype == torch.uint8 and set(labels) == {0}
    shown = load_images(options(folder, "svhn", image_size=16)).test
    assert torch.equal(images_NCSS[7], v2.functional.rgb_to_grayscale(shown[7][0]))
    normalized = data.make_normalizer()(images_NCSS)  # bytes are scaled to 0 … 1 first, as gray digits are
    assert normalized.min() >= -1 and normalized.max() < 2.2


def test_gray_images_get_equal_colors(folder):
    task = options(folder, "svhn")
    data = add_other_datasets(load_images(task), task, "mnist")  # one name may stand without a list
    images_NCSS, _ = read(data.ood["mnist"])
    assert images_NCSS.shape == (20, 3, 32, 32) and torch.equal(images_NCSS[:, 0], images_NCSS[:, 2])


def test_a_large_dataset_gives_a_fixed_sample(folder, digit_images, monkeypatch):
    monkeypatch.setattr(other_datasets, "MOST_IMAGES", 5)
    first, again, other = (
        add_other_datasets(digit_images, options(folder, split_seed=seed), ["svhn"]) for seed in (0, 0, 1)
    )
    assert len(first.ood["svhn"]) == 5
    assert first.ood["svhn"].indices == again.ood["svhn"].indices != other.ood["svhn"].indices
    assert first.ood_digests == again.ood_digests
    assert first.ood_digests["svhn"] != other.ood_digests["svhn"] and first.digests == digit_images.digests


def test_without_other_datasets_the_images_stay_as_they_are(digit_images):
    assert add_other_datasets(digit_images, options("unused"), []) is digit_images


def test_a_dataset_may_lie_in_a_folder_of_its_own(tmp_path, digit_images):
    archives.write_imagefolder(tmp_path)
    data = add_other_datasets(digit_images, options("unused"), [f"imagefolder:{tmp_path}"])
    assert read(data.ood["imagefolder"])[0].shape == (12, 1, 16, 16)


def test_nothing_is_downloaded_into_a_folder_of_the_users_images(tmp_path, monkeypatch):
    archives.write_imagefolder(tmp_path / "mine")
    archives.write_imagefolder(tmp_path / "others", classes=("cat", "dog"))
    (tmp_path / "data").mkdir()
    archives.write_svhn(tmp_path / "data")
    monkeypatch.chdir(tmp_path)  # ./data is the default of task.data.root
    task = options(tmp_path / "mine", "imagefolder", image_size=32)
    data = add_other_datasets(load_images(task), task, ["svhn", f"imagefolder:{tmp_path}/others"])
    assert (len(data.ood["svhn"]), len(data.ood["imagefolder"])) == (20, 8)
    with pytest.raises(UserError, match="is the dataset of the task"):
        add_other_datasets(data, task, [f"imagefolder:{tmp_path}/mine"])


@pytest.mark.parametrize("entries, told", [
    (["svnh"], r"evaluation\.ood=svnh is unknown\. Set evaluation\.ood=.*svhn"),
    (["digits"], r"evaluation\.ood=digits is the dataset of the task"),
    (["imagefolder"], r"needs the folder of its images\. Set evaluation\.ood=\[imagefolder:FOLDER\]"),
    (["mnist", "mnist:elsewhere"], r"evaluation\.ood=mnist: a set of this name already exists"),
    (["cifar10"], r"evaluation\.ood=cifar10: task\.data\.dataset=cifar10 could not be opened in .*missing"),
    (5, r"evaluation\.ood=5 is unknown"),
])  # fmt: skip
def test_a_dataset_that_cannot_be_used_is_refused(folder, digit_images, monkeypatch, entries, told):
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match=told):
        add_other_datasets(digit_images, options(folder), entries)


def test_a_dataset_without_classes_is_refused(tmp_path, digit_images):
    archives.write_voc(tmp_path)
    with pytest.raises(UserError, match=r"evaluation\.ood=voc_segmentation has no images with classes"):
        add_other_datasets(digit_images, options("unused"), [f"voc_segmentation:{tmp_path}"])


class UsersImages(Dataset):
    """Images of a user who normalizes them in a transform."""

    def __init__(self, transform, shape=(3, 16, 16)):
        self.transform, self.shape = transform, shape

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(self.shape), 0


def users_data(**images):
    split = UsersImages(**images)
    return gather_labeled_images(split, split, split, num_classes=4, channels=3, image_size=16)


def test_the_normalization_of_the_users_own_images_is_used(folder):
    task = replace(options(folder), dataset="my_code:task")
    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])])
    images_NCSS, _ = read(add_other_datasets(users_data(transform=steps), task, ["svhn"]).ood["svhn"])
    assert torch.equal(images_NCSS[3], steps(load_images(options(folder, "svhn", image_size=16)).test[3][0]))


@pytest.mark.parametrize("images, told", [
    ({"transform": None}, r"evaluation\.ood=svhn needs the normalization .*no v2\.Normalize.*\"ood\""),
    ({"transform": v2.Normalize([0.5], [0.5]), "shape": (3, 12, 16)}, r"\(3, 16, 16\), but .* \(3, 12, 16\)"),
])  # fmt: skip
def test_images_that_cannot_get_the_form_of_the_users_own_are_refused(folder, images, told):
    with pytest.raises(UserError, match=told):
        add_other_datasets(users_data(**images), replace(options(folder), dataset="my_code:task"), ["svhn"])
