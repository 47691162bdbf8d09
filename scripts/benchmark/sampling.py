"""Sampling 200 models at once with a fast sampler, against one model at a time with 1,000 DDPM steps."""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset
from core.generation.generator import WeightGenerator
from core.runtime.provenance import ROOT
from scripts.benchmark.contest import Contest

NUM_MODELS = 200
SUBSET = ParameterSubset(("layer4.1.bn1.weight",), ((2048,),))  # the size of ResNet-18's last two norm layers


def generator_with(autoencoder: str, denoiser: str, sampler: str, device: torch.device) -> WeightGenerator:
    """Return an untrained generator of the configured size, since time does not depend on the weights."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        choices = [f"system/autoencoder={autoencoder}", f"system/denoiser={denoiser}", f"system/sampler={sampler}"]
        system = compose("base", overrides=choices).system
    torch.manual_seed(0)
    encoder = instantiate(system.autoencoder, num_params=SUBSET.num_params)
    latent_dim = encoder.latent_dim
    names = ("autoencoder", "denoiser", "schedule", "sampler")
    recipes = {name: cast(dict[str, Any], OmegaConf.to_container(system[name], resolve=True)) for name in names}
    return WeightGenerator(
        recipes,
        SUBSET,
        Normalizer(torch.zeros(SUBSET.num_params), torch.ones(SUBSET.num_params)),
        Normalizer(torch.zeros(latent_dim), torch.ones(latent_dim)),
        encoder,
        instantiate(system.denoiser, latent_dim=latent_dim),
        {},
    ).to(device)


def contests(device: torch.device) -> Iterator[Contest]:
    """Yield our default against the reference procedure with the same networks, then with the paper's for both."""
    for autoencoder, denoiser in (("small", "mlp"), ("paper", "conv")):
        fast, slow = (generator_with(autoencoder, denoiser, sampler, device) for sampler in ("dpm_solver", "ddpm"))
        yield Contest(
            "sampling",
            f"{autoencoder} autoencoder, {denoiser} denoiser",
            "model",
            ours=partial(fast.sample, 0, range(NUM_MODELS)),
            reference=partial(slow.sample, 0, [0], batch_size=1),
            our_units=NUM_MODELS,
        )
