"""p-diff's generator: noise -> latent -> vector, by a diffusion model over the latents of an autoencoder.

M generated models · B batch · D numbers in one flattened subset · L numbers in one latent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset
from core.diffusion.gaussian_diffusion import NoiseSchedule, denoise, standard_normal
from core.generation.generator import OnStep, Progress, WeightGenerator
from core.generation.recipes import Recipe, build
from core.networks.autoencoder import Autoencoder
from core.runtime.errors import UserError
from core.runtime.precision import float32_products
from core.runtime.seeding import generator_for

MOST_ROWS = 200  # vectors in one pass of the autoencoder
NUMBERS_AT_ONCE = 20_000_000  # of these vectors together: 80 MB of float32


class LatentDiffusionGenerator(WeightGenerator):
    """An autoencoder of vectors and a denoiser of its latents (p-diff).

    Args:
        recipes: "autoencoder", "denoiser", "schedule" and "sampler", each as plain values; "denoiser" and "sampler"
            are None without a denoiser.
        subset: The generated parameters.
        normalizer: Applied to vectors before they are encoded.
        latent_normalizer: Applied to latents before they are diffused.
        autoencoder: Encodes and decodes.
        denoiser: None where the latents are drawn from N(0, I) itself, as a VAE's are.
        trained_on: "fingerprint" and "k" of the checkpoints, and "seed" and "seconds" of the training.
    """

    kind = "latent_diffusion"

    def __init__(
        self,
        *,
        recipes: Mapping[str, Any],
        subset: ParameterSubset,
        normalizer: Normalizer,
        latent_normalizer: Normalizer,
        autoencoder: Autoencoder,
        denoiser: nn.Module | None,
        trained_on: Mapping[str, Any],
    ):
        super().__init__(recipes=recipes, subset=subset, trained_on=trained_on)
        self.normalizer, self.latent_normalizer = normalizer, latent_normalizer
        self.autoencoder, self.denoiser = autoencoder, denoiser
        self.schedule = NoiseSchedule(**recipes["schedule"])
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Return the generator that `save` wrote, built from the recipes of its file."""
        recipes, subset = metadata["recipes"], ParameterSubset.from_metadata(metadata["subset"])
        autoencoder = build(recipes["autoencoder"], num_params=subset.num_params)
        has_denoiser = bool(recipes["denoiser"])
        generator = cls(
            recipes=recipes,
            subset=subset,
            normalizer=_normalizer(state, "normalizer"),
            latent_normalizer=_normalizer(state, "latent_normalizer"),
            autoencoder=autoencoder,
            denoiser=build(recipes["denoiser"], latent_dim=autoencoder.latent_dim) if has_denoiser else None,
            trained_on=metadata["trained_on"],
        )
        generator.load_state_dict(state)
        return generator

    @property
    def has_encoder(self) -> bool:
        """Always true."""
        return True

    @property
    def has_steps(self) -> bool:
        """Whether there is a denoiser, whose steps `on_step` sees."""
        return self.denoiser is not None

    @property
    def _rows_at_once(self) -> int:
        """How many vectors of D numbers are encoded or decoded together."""
        return min(MOST_ROWS, max(1, NUMBERS_AT_ONCE // self.subset.num_params))

    def use_sampler(self, sampler: Recipe | None) -> Self:
        """Sample with another sampler than the one trained with; without a denoiser there is none to choose."""
        if self.denoiser is None:
            self.recipes["sampler"] = None
        elif sampler is not None:
            self.recipes["sampler"] = dict(sampler)
        return self

    @torch.no_grad()
    @float32_products()
    def sample(
        self,
        seed: int,
        indices: Sequence[int],
        *,
        batch_size: int = 200,
        progress: Progress = iter,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Generate vectors as `WeightGenerator.sample` says; a state that `on_step` sees is x_t (B, L)."""
        if not len(indices) or batch_size < 1:
            raise UserError(
                f"generation.num_models={len(indices)}, generation.batch_size={batch_size}: expected at least 1 of each"
            )
        batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        vectors: list[Tensor] = []
        for batch in progress(batches):
            latents_BL = self._sample_latents([generator_for(seed, "generate", index) for index in batch], on_step)
            vectors += [self.decode(part).cpu() for part in latents_BL.split(self._rows_at_once)]
        return torch.cat(vectors)

    def _sample_latents(self, generators: Sequence[torch.Generator], on_step: OnStep | None) -> Tensor:
        """Return standardized latents (B, L), one per random generator."""
        x_BL = standard_normal(self.autoencoder.latent_dim, generators, self.device)
        if self.denoiser is None:
            return x_BL
        sampler = self.recipes["sampler"]
        return denoise(
            self.denoiser,
            self.schedule,
            make_scheduler=build(sampler["scheduler"]),
            num_steps=sampler["num_steps"],
            x_BL=x_BL,
            generators=generators,
            on_step=on_step,
        )

    @torch.no_grad()
    @float32_products()
    def decode(self, latents_BL: Tensor) -> Tensor:
        """Turn standardized latents (B, L) into parameter vectors (B, D)."""
        return self.normalizer.unnormalize(self.autoencoder.decode(self.latent_normalizer.unnormalize(latents_BL)))

    @torch.no_grad()
    @float32_products()
    def encode(self, vectors_MD: Tensor) -> Tensor:
        """Return the standardized latents (M, L) of parameter vectors (M, D), on the CPU."""
        latents: list[Tensor] = []
        for batch in vectors_MD.split(self._rows_at_once):
            encoded_BL = self.autoencoder.encode(self.normalizer.normalize(batch.to(self.device)))
            latents.append(self.latent_normalizer.normalize(encoded_BL).cpu())
        return torch.cat(latents)

    def reconstruct(self, vectors_MD: Tensor) -> Tensor:
        """Encode and decode vectors, (M, D) to (M, D) on the CPU."""
        latents_ML = self.encode(vectors_MD).to(self.device)
        return torch.cat([self.decode(batch).cpu() for batch in latents_ML.split(self._rows_at_once)])


def _normalizer(state: Mapping[str, Tensor], name: str) -> Normalizer:
    """Return one of the normalizers in the tensors of a file."""
    return Normalizer(state[f"{name}.mean"], state[f"{name}.std"], state[f"{name}.log"])
