"""Contests of sampling: 200 models at once with a fast sampler, against one model with 1,000 DDPM steps."""

from collections.abc import Iterator
from functools import partial

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset
from core.command_line.entry_point import to_plain
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.runtime.provenance import ROOT
from core.training.system import SystemSpec
from scripts.benchmark.contest import Contest

NUM_MODELS = 200
SUBSET = ParameterSubset(("layer4.1.bn1.weight",), ((2048,),))  # the size of the last two norm layers of ResNet-18


def make_generator(autoencoder: str, denoiser: str, sampler: str, *, device: torch.device) -> LatentDiffusionGenerator:
    """Return a generator of the configured size with random weights, since time does not depend on the weights."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        choices = [f"system/autoencoder={autoencoder}", f"system/denoiser={denoiser}", f"system/sampler={sampler}"]
        system = compose("base", overrides=choices).system
    torch.manual_seed(0)
    encoder = instantiate(system.autoencoder, num_params=SUBSET.num_params)
    latent_dim = encoder.latent_dim
    return LatentDiffusionGenerator(
        recipes=SystemSpec.from_config(to_plain(system)).recipes,
        subset=SUBSET,
        normalizer=Normalizer.identity(SUBSET.num_params),
        latent_normalizer=Normalizer.identity(latent_dim),
        autoencoder=encoder,
        denoiser=instantiate(system.denoiser, latent_dim=latent_dim),
        trained_on={},
    ).to(device)


def make_contests(device: torch.device) -> Iterator[Contest]:
    """Yield a contest with our default networks and one with the paper's; both sides always use equal networks."""
    for autoencoder, denoiser in (("small", "mlp"), ("paper", "conv")):
        fast, slow = (
            make_generator(autoencoder, denoiser, sampler, device=device) for sampler in ("dpm_solver", "ddpm")
        )
        yield Contest(
            "sampling",
            f"{autoencoder} autoencoder, {denoiser} denoiser",
            "model",
            ours=partial(fast.sample, 0, range(NUM_MODELS)),
            reference=partial(slow.sample, 0, [0], batch_size=1),
            our_units=NUM_MODELS,
        )
