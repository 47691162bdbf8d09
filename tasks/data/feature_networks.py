"""The networks whose features compare generated images with real ones: a small classifier, and Inception-v3.

B images in one batch · C color channels · S image size in pixels · F features
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.runtime.artifacts import open_artifact, save_artifact
from core.runtime.content_hash import hash_json
from core.runtime.errors import UserError, suggest_names
from core.runtime.seeding import derive_seed
from tasks.data.loaders import count_images

log = logging.getLogger(__name__)
KIND = "features"  # of the artifact
NUM_FEATURES = 32
TRAINING: dict[str, Any] = {"version": 1, "steps": 500, "batch_size": 64, "lr": 2e-3}
INCEPTION_FEATURES = 2048
FEATURES = {"classifier": NUM_FEATURES, "inception": INCEPTION_FEATURES}  # name: F


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that returns features (B, F) of images in [−1, 1], and what is said about it.

    Args:
        network: The network, with the number F as `num_features`.
        label: The network in words, for the note of FID.
        content_hash: The hash of its weights.
    """

    network: nn.Module
    label: str
    content_hash: str


class FeatureClassifier(nn.Module):
    """A small convolutional classifier, whose last hidden layer has the features.

    Args:
        channels: C.
        image_size: S.
        num_classes: The number of classes.
    """

    def __init__(self, channels: int, image_size: int, num_classes: int):
        super().__init__()
        self.num_features = NUM_FEATURES
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU()]
        width = 16
        while image_size > 4:
            layers += [nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            width, image_size = 2 * width, image_size // 2
        # The features have no activation, because a unit that is 0 on all images would make their covariance singular.
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * image_size**2, NUM_FEATURES))
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return the features."""
        return self.body(images_BCSS)

    def classify(self, images_BCSS: Tensor) -> Tensor:
        """Return the logits of the classes."""
        return self.head(F.relu(self(images_BCSS)))


class InceptionFeatures(nn.Module):
    """The 2,048 features of Inception-v3 with the weights that FID is usually computed with.

    Args:
        network: torchmetrics' network, which takes images of bytes.
    """

    num_features = INCEPTION_FEATURES

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return the features; images of one channel become gray ones."""
        bytes_BCSS = ((images_BCSS + 1) * 127.5).round().clamp(0, 255).byte()
        return self.network(bytes_BCSS.expand(-1, 3, -1, -1))


def count_features(name: str) -> int:
    """Return F, the number of features of the feature network with this name.

    Raises:
        UserError: The name is unknown.
    """
    if name not in FEATURES:
        raise UserError(
            f"task.data.diffusion.features={name} is unknown. Set task.data.diffusion.features=NAME to a known feature "
            f"network ({suggest_names(name, FEATURES)})"
        )
    return FEATURES[name]


def find_feature_network(
    name: str, train: Dataset, facts: Mapping[str, int], *, folder: Path, dataset: str, digest: str, seed: int
) -> FeatureNetwork:
    """Return the feature network with this name.

    Args:
        name: A name in `FEATURES`.
        train: Training images in [−1, 1], with their classes.
        facts: The `num_classes`, `channels` and `image_size` of the images.
        folder: The folder in which classifiers are stored.
        dataset: The name of the dataset.
        digest: The digest of the training images.
        seed: The seed of the classifier.

    Raises:
        UserError: Inception's weights cannot be loaded, or the classifier cannot be stored.
    """
    if name == "inception":
        return load_inception()
    settings = {**TRAINING, "features": NUM_FEATURES, "facts": dict(facts), "images": digest, "seed": seed}
    path = folder / f"{dataset}_features_{hash_json(settings)[:12]}.safetensors"
    network = FeatureClassifier(facts["channels"], facts["image_size"], facts["num_classes"])
    if not path.is_file():
        log.info("Training the classifier whose features FID compares, on the training images (once): %s", path)
        fit_classifier(network, train, seed=seed)
        save_artifact(path, KIND, network.state_dict(), metadata=settings)
    artifact = open_artifact(path, KIND)
    network.load_state_dict(artifact.tensors)
    label = "a classifier of these images, not comparable with published FID"
    return FeatureNetwork(network, label, hash_json(dict(artifact.hashes)))


def fit_classifier(network: FeatureClassifier, train: Dataset, *, seed: int) -> None:
    """Train a classifier from initial weights and on batches that the seed decides."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(derive_seed(seed, "feature network"))
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
        optimizer = torch.optim.Adam(network.parameters(), lr=TRAINING["lr"])
        for _ in range(TRAINING["steps"]):
            chosen = torch.randint(count_images(train), (TRAINING["batch_size"],)).tolist()
            images, labels = zip(*(train[index] for index in chosen), strict=True)
            loss = F.cross_entropy(network.classify(torch.stack(images)), torch.tensor(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def load_inception() -> FeatureNetwork:
    """Return Inception-v3 of torchmetrics, whose weights torch-fidelity downloads at the first use.

    Raises:
        UserError: The package torch-fidelity is missing, or the weights cannot be loaded.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        network = NoTrainInceptionV3(name="inception-v3-compat", features_list=[str(INCEPTION_FEATURES)])
    except Exception as error:  # a missing package and a failed download raise different errors
        reason = " ".join(str(error).split())
        raise UserError(
            f"task.data.diffusion.features=inception could not be loaded ({reason}). Run pip install torch-fidelity "
            "with a connection to the internet, or set task.data.diffusion.features=classifier, whose FID is not "
            "comparable with published ones"
        ) from error
    return FeatureNetwork(InceptionFeatures(network), "Inception-v3", "inception-v3-compat")
