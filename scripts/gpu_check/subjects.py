"""Networks, images and vectors that several parts measure, at full size and at a tiny size for a rehearsal.

K checkpoints · M models · D numbers in one flattened subset · L numbers in one latent · S image size in pixels.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from core.checkpoints.subset import ParameterSubset, flatten, resolve_subset
from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.networks.autoencoder import ConvAutoencoder
from core.networks.denoiser import ConvDenoiser
from core.training.stage_modules import AutoencoderModule, LatentDiffusionModule, SteppedModule
from core.training.weight_average import WeightAverage
from tasks.data.splits import TaskData, gather_labeled_images
from tasks.networks.build import build_classifier

COLORS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
EMA_DECAY = 0.99  # the value of configs/system/ae_ddpm.yaml
BATCH = 200  # all K checkpoints at once, like the paper
SPREAD = 0.1  # the standard deviation of the vectors around the network's own vector

Stage = tuple[SteppedModule, list[Callback]]


def choose_optimization(rehearse: bool, **options: Any) -> dict[str, Any]:
    """Return the arguments that the modules of both stages share."""
    return {
        "make_optimizer": partial(torch.optim.AdamW, lr=1e-3, fused=True),
        "batch_size": 4 if rehearse else BATCH,
        "seed": 0,
        **options,
    }


def make_autoencoder_stage(rehearse: bool, **options: Any) -> Stage:
    """Return the module of the autoencoder stage and its callbacks, with the paper's autoencoder and D = 2048."""
    torch.manual_seed(0)
    num_params, channels = (64, (4, 8)) if rehearse else (2048, (64, 128, 256, 256, 32))
    vectors_KD = torch.randn(8 if rehearse else BATCH, num_params)
    return AutoencoderModule(
        ConvAutoencoder(num_params, channels), vectors_KD, **choose_optimization(rehearse, **options)
    ), []


def make_diffusion_stage(rehearse: bool, **options: Any) -> Stage:
    """Return the module of the diffusion stage and its callbacks, with the paper's denoiser and L = 128."""
    torch.manual_seed(0)
    latent_dim, channels = (16, (4, 8, 4, 1)) if rehearse else (128, (64, 128, 256, 512, 256, 128, 64, 1))
    latents_KL = torch.randn(8 if rehearse else BATCH, latent_dim)
    module = LatentDiffusionModule(
        ConvDenoiser(latent_dim, channels), NoiseSchedule(), latents_KL, **choose_optimization(rehearse, **options)
    )
    return module, [WeightAverage(EMA_DECAY)]


STAGES = {"autoencoder": make_autoencoder_stage, "denoiser": make_diffusion_stage}


@dataclass(frozen=True)
class Classified:
    """A classifier with random weights, M vectors (M, D) for its last two norm layers, and random images of bytes."""

    model: nn.Module
    subset: ParameterSubset
    vectors_MD: Tensor
    images: TensorDataset
    data: TaskData

    @property
    def image_size(self) -> int:
        """The height and width of the images in pixels."""
        return self.data.facts["image_size"]


def make_classified(
    model: nn.Module, *, num_models: int, num_images: int, image_size: int, num_classes: int = 100
) -> Classified:
    """Return `model` with `num_models` vectors around its own; its `num_images` images serve as every split."""
    torch.manual_seed(1)
    model = model.eval().requires_grad_(False)
    subset = resolve_subset(model, "last_norms", count=2)
    vectors_MD = flatten(model, subset) + SPREAD * torch.randn(num_models, subset.num_params)
    pixels = torch.randint(256, (num_images, 3, image_size, image_size), dtype=torch.uint8)
    images = TensorDataset(pixels, torch.randint(num_classes, (num_images,)))
    data = gather_labeled_images(
        images, images, images, num_classes=num_classes, channels=3, image_size=image_size, colors=COLORS
    )
    return Classified(model, subset, vectors_MD, images, data)


def make_resnet18(rehearse: bool, num_models: int = 200, num_images: int = 10_000) -> Classified:
    """Return ResNet-18 with the small stem at 32×32, 100 classes."""
    torch.manual_seed(0)
    if rehearse:
        tiny = build_classifier("test_resnet", num_classes=100, channels=3, image_size=32)
        return make_classified(tiny, num_models=4, num_images=48, image_size=32)
    model = build_classifier("resnet18", num_classes=100, channels=3, image_size=32)
    return make_classified(model, num_models=num_models, num_images=num_images, image_size=32)


def make_vit_base(rehearse: bool, num_models: int, num_images: int) -> Classified:
    """Return ViT-Base at 224×224, 100 classes."""
    torch.manual_seed(0)
    if rehearse:
        tiny = {"img_size": 32, "patch_size": 16, "depth": 2, "embed_dim": 48, "num_heads": 3}
        return make_classified(
            build_classifier("vit_base_patch16_224", num_classes=100, channels=3, image_size=32, options=tiny),
            num_models=3,
            num_images=24,
            image_size=32,
        )
    return make_classified(
        build_classifier("vit_base_patch16_224", num_classes=100, channels=3, image_size=224),
        num_models=num_models,
        num_images=num_images,
        image_size=224,
    )
