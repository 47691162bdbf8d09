"""Generation of images by DDPM: the loss of noise prediction, and FID of images sampled from the same noise.

M models · N items · B items in one batch · C color channels · S image size in pixels · F features
"""

import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from core.evaluation.scores import Metric, Scores
from core.runtime.errors import UserError
from tasks.objectives.frechet_distance import Gaussian, measure_distance
from tasks.objectives.objective import MOST_ITEMS, Network, Objective, ScoreCounter

SCHEDULE: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}  # Ho et al. 2020, §4
PLANES = ("image", "noise", "timestep", "start")
MOST_NUMBERS = {
    "cpu": 2**18,
    "cuda": 2**21,
}  # numbers in the images at once, each of which becomes hundreds of features


def stack_planes(image_CSS: Tensor, num_timesteps: int, generator: torch.Generator | None = None) -> Tensor:
    """Return the input of an item (4, C, S, S): an image with all random numbers that its scores depend on.

    The planes are the image, the noise that the network has to predict, the timestep of this noise as a constant, and
    the noise from which an image is sampled. All models therefore see the same noise.

    Args:
        image_CSS: The image, in [−1, 1].
        num_timesteps: The number of timesteps of the noise schedule.
        generator: Draws the noise and the timestep; None for torch's global generator.
    """
    noise_2CSS = torch.randn(2, *image_CSS.shape, generator=generator)
    timestep = torch.randint(num_timesteps, (1,), generator=generator)
    return torch.stack([image_CSS, noise_2CSS[0], timestep.expand(image_CSS.shape).float(), noise_2CSS[1]])


class Generation(Objective):
    """Networks predict the noise in images, and generate images by removing noise step by step.

    Networks take noisy images (B, C, S, S) and their timesteps (B,), and return the predicted noise. Inputs are those
    of `stack_planes`, and targets are the real images (B, C, S, S).

    Args:
        features: The network whose features compare generated with real images. It returns features (B, F) of images
            in [−1, 1], and has the number F as `num_features`.
        metric: FID, with a note that names the features.
        num_timesteps: The number of timesteps of the noise schedule.
        sampling_steps: The steps of DDIM (Song et al. 2021) in which an image is sampled.
        recorded: Settings that decide the scores, such as a hash of the feature network.
    """

    def __init__(
        self,
        features: nn.Module,
        metric: Metric,
        *,
        num_timesteps: int,
        sampling_steps: int,
        recorded: Mapping[str, Any],
    ):
        self.features, self.metric = features.eval().requires_grad_(False), metric
        self.recorded = {**recorded, "num_timesteps": num_timesteps, "sampling_steps": sampling_steps}
        # diffusers declares no types for its schedulers.
        self.noising: Any = DDPMScheduler(num_timesteps, **SCHEDULE)
        # "trailing" starts at the last timestep, at which images are nearly pure noise, however few the steps are.
        self.sampling: Any = DDIMScheduler(num_timesteps, **SCHEDULE, timestep_spacing="trailing")
        self.sampling.set_timesteps(sampling_steps)

    def compute_loss(self, network: Network, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error of the predicted noise (Ho et al. 2020, Eq. 14)."""
        return self.measure_errors(network, inputs).mean()

    def measure_errors(self, network: Network, planes_B4CSS: Tensor) -> Tensor:
        """Return the mean squared error of the noise predicted in each image (B,)."""
        image_BCSS, noise_BCSS, timestep_BCSS, _ = planes_B4CSS.unbind(dim=1)
        timestep_B = timestep_BCSS[:, 0, 0, 0].long()
        noisy_BCSS = self.noising.add_noise(image_BCSS, noise_BCSS, timestep_B)
        return (network(noisy_BCSS, timestep_B).float() - noise_BCSS).square().flatten(1).mean(dim=1)

    def sample(self, network: Network, start_BCSS: Tensor) -> Tensor:
        """Return the images (B, C, S, S) in [−1, 1] that the network makes of noise; NaN becomes gray."""
        image_BCSS = start_BCSS
        for timestep in self.sampling.timesteps.tolist():
            timestep_B = torch.full((len(image_BCSS),), timestep, device=image_BCSS.device)
            noise_BCSS = network(image_BCSS, timestep_B).float()
            image_BCSS = self.sampling.step(noise_BCSS, timestep, image_BCSS, return_dict=False)[0]
        return image_BCSS.nan_to_num(nan=0).clamp(-1, 1)

    def predict(self, network: Network, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the loss (B,) and the sampled image (B, C, S, S) of each item."""
        (planes_B4CSS,) = inputs
        return {
            "loss": self.measure_errors(network, planes_B4CSS),
            "samples": self.sample(network, planes_B4CSS[:, PLANES.index("start")]),
        }

    def count_scores(
        self, num_models: int, device: torch.device, temperature_P: np.ndarray | None = None
    ) -> "GenerationCounter":
        """Return a counter of features; there are no votes."""
        return GenerationCounter(num_models, self.features.to(device), self.metric)

    def limit_batch(self, inputs: Tensor, device: torch.device) -> int:
        """Return the number of images (4, C, S, S) whose feature maps fit into memory."""
        most = MOST_NUMBERS.get(device.type, MOST_NUMBERS["cpu"])
        return max(1, min(MOST_ITEMS, most // inputs[0].numel()))

    def measure_agreement(self, predictions: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
        """Return the share of numbers in sampled images that differ by less than one of 256 shades."""
        return ((predictions["samples"] - exact["samples"]).abs() < 2 / 255).double().mean().item()

    def record(self) -> dict[str, Any]:
        """Return the noise schedule, the sampling steps and the feature network."""
        return self.recorded


class GenerationCounter(ScoreCounter):
    """The features of M models' samples and of the real images, from which FID and its influences follow.

    The features lie in temporary files, of which the system keeps in memory what fits: 200 models with 10,000 samples
    each have 16 GB of Inception's 2,048 features.

    A model that gives NaN counts as one that makes black images only, or white ones, whichever FID is larger.

    Args:
        num_models: M.
        features: The feature network.
        metric: FID.
    """

    def __init__(self, num_models: int, features: nn.Module, metric: Metric):
        self.num_models, self.features, self.metric = num_models, features, metric
        self.blank_2F: np.ndarray | None = None  # the features of a black and of a white image
        self.real: list[np.ndarray] = []  # for each batch (B, F)
        self.generated: list[np.ndarray] = []  # for each batch (M, B, F)
        self.loss: list[np.ndarray] = []  # for each batch (M, B)

    @torch.no_grad()
    def add(self, predictions: Iterable[tuple[slice, Mapping[str, Tensor]]], targets: Tensor) -> None:
        """Add the losses (models, B) and samples (models, B, C, S, S), and the real images (B, C, S, S)."""
        real_BF = self.features(targets).float().cpu().numpy()
        if self.blank_2F is None:
            blank_2CSS = torch.stack([-torch.ones_like(targets[0]), torch.ones_like(targets[0])])
            self.blank_2F = self.features(blank_2CSS).float().cpu().numpy()
        shape = self.num_models, *real_BF.shape
        with tempfile.TemporaryFile() as file:
            generated_MBF = np.memmap(file, dtype=np.float32, shape=shape, mode="w+")
        loss_MB = np.empty(shape[:2])
        for rows, group in predictions:
            features = self.features(group["samples"].flatten(0, 1)).float()
            generated_MBF[rows] = features.view(-1, *real_BF.shape).cpu().numpy()
            loss_MB[rows] = group["loss"].double().cpu().numpy()
        self.real.append(real_BF)
        self.generated.append(generated_MBF)
        self.loss.append(loss_MB)

    def finish(self) -> Scores:
        """Return the scores, in which each item is a real image together with the sample from the item's noise.

        Raises:
            UserError: There are too few images for the number of features.
        """
        real = Gaussian(np.concatenate(self.real))
        require_enough(*real.features_NF.shape)
        loss_MN = np.concatenate(self.loss, axis=1)
        pairs = [
            measure_distance(real, Gaussian(np.concatenate(rows)))
            if np.isfinite(loss_N).all()
            else self._measure_blank(real)
            for rows, loss_N in zip(zip(*self.generated, strict=True), loss_MN, strict=True)
        ]
        return Scores(
            np.array([distance for distance, _ in pairs]),
            loss_MN.mean(axis=1),
            None,
            metric=self.metric,
            influence_MN=np.stack([influence_N for _, influence_N in pairs]).astype(np.float32),
        )

    def _measure_blank(self, real: Gaussian) -> tuple[float, np.ndarray]:
        """Return the larger distance of black and of white images, with its influences."""
        assert self.blank_2F is not None
        blanks = [Gaussian(np.tile(blank_F, (len(real.features_NF), 1))) for blank_F in self.blank_2F]
        return max((measure_distance(real, blank) for blank in blanks), key=lambda pair: pair[0])


def require_enough(num_images: int, num_features: int, name: str = "the scored set") -> None:
    """Check that the covariance of the features is not singular for lack of images.

    Args:
        num_images: N.
        num_features: F.
        name: The name of the set of images, for the error.

    Raises:
        UserError: There are at most F images.
    """
    if num_images <= num_features:
        raise UserError(
            f"{name} has {num_images} images, but FID on {num_features} features needs at least {num_features + 1}. "
            "Use more images (evaluation.num_train_images=NUMBER for training images, task.data.val_fraction=SHARE for "
            "validation), or set task.data.diffusion.features=classifier, which has 32 features"
        )
