"""p-diff's generator: a diffusion model turns noise into latents, and an autoencoder decodes them to parameter vectors.

M generated models · B batch · D parameters per vector · L numbers per latent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset
from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.diffusion.sampling import Sampler, draw_standard_normal
from core.generation.generator import OnStep, Progress, WeightGenerator
from core.generation.recipes import Recipe, build, build_sampler
from core.networks.autoencoder import Autoencoder
from core.runtime.errors import UserError
from core.runtime.precision import set_float32_precision
from core.runtime.seeding import generator_for

# One pass of the autoencoder holds at most this many vectors, and this many numbers in them (80 MB of float32).
MAX_VECTORS_PER_PASS = 200
MAX_NUMBERS_PER_PASS = 20_000_000


class LatentDiffusionGenerator(WeightGenerator):
    """The generator of p-diff: an autoencoder of parameter vectors, and a denoiser of its latents.

    The denoiser turns x_T ~ N(0, I) into a standardized latent x_0. The new vector is that latent after undoing the
    latent normalizer, decoding, and undoing the normalizer. Without a denoiser, x_0 itself is drawn from N(0, I), the
    prior of a VAE.

    Args:
        recipes: "autoencoder", "denoiser", "schedule" and "sampler", each as plain values; "denoiser" and "sampler"
            are None without a denoiser.
        subset: The generated parameters.
        normalizer: Applied to vectors before they are encoded.
        latent_normalizer: Applied to latents, so that the diffusion sees standardized latents.
        autoencoder: Maps normalized vectors to latents and back.
        denoiser: Predicts the noise in standardized latents, or None.
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
        """Rebuild the generator that `save` wrote from the tensors and the recipes of its file."""
        recipes, subset = metadata["recipes"], ParameterSubset.from_metadata(metadata["subset"])
        autoencoder = build(recipes["autoencoder"], num_params=subset.num_params)
        has_denoiser = bool(recipes["denoiser"])
        generator = cls(
            recipes=recipes,
            subset=subset,
            normalizer=_rebuild_normalizer(state, "normalizer"),
            latent_normalizer=_rebuild_normalizer(state, "latent_normalizer"),
            autoencoder=autoencoder,
            denoiser=build(recipes["denoiser"], latent_dim=autoencoder.latent_dim) if has_denoiser else None,
            trained_on=metadata["trained_on"],
        )
        generator.load_state_dict(state)
        return generator

    @property
    def has_encoder(self) -> bool:
        """Whether `encode` and `reconstruct` are implemented, which every generator of this class does."""
        return True

    @property
    def has_steps(self) -> bool:
        """Whether there is a denoiser, so that `sample` calls `on_step`."""
        return self.denoiser is not None

    @property
    def _vectors_per_pass(self) -> int:
        """The number of vectors that the autoencoder encodes or decodes together, which bounds their memory."""
        return count_vectors_per_pass(self.subset.num_params)

    def use_sampler(self, sampler: Recipe | None) -> Self:
        """Choose the sampler of `sample`, and return the generator; None keeps the current one.

        Without a denoiser there is no sampler, and the argument is ignored.
        """
        if self.denoiser is None:
            self.recipes["sampler"] = None
        elif sampler is not None:
            self.recipes["sampler"] = dict(sampler)
        return self

    @torch.no_grad()
    @set_float32_precision()
    def sample(
        self,
        seed: int,
        indices: Sequence[int],
        *,
        batch_size: int = 200,
        progress: Progress = iter,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Generate vectors (M, D) as described in `WeightGenerator.sample`; `on_step` gets the latents x_t (B, L)."""
        if not len(indices) or batch_size < 1:
            raise UserError(
                f"generation.num_models={len(indices)}, generation.batch_size={batch_size}: "
                "expected at least 1 for both. Set both to at least 1"
            )
        batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        vectors: list[Tensor] = []
        sampler = self._make_sampler()
        for batch in progress(batches):
            generators = [generator_for(seed, "generate", index) for index in batch]
            latents_BL = draw_standard_normal(self.autoencoder.latent_dim, generators, self.device)
            if self.denoiser is not None and sampler is not None:
                latents_BL = sampler.denoise(self.denoiser, latents_BL, generators, on_step)
            vectors += [self.decode(part).cpu() for part in latents_BL.split(self._vectors_per_pass)]
        return torch.cat(vectors)

    def _make_sampler(self) -> Sampler | None:
        """Return the sampler after its check, or None without a denoiser."""
        recipe = self.recipes["sampler"]
        if self.denoiser is None or recipe is None:
            return None
        sampler = build_sampler(recipe, self.schedule)
        sampler.check()
        return sampler

    @torch.no_grad()
    @set_float32_precision()
    def decode(self, latents_BL: Tensor) -> Tensor:
        """Decode standardized latents (B, L) to parameter vectors (B, D)."""
        return self.normalizer.unnormalize(self.autoencoder.decode(self.latent_normalizer.unnormalize(latents_BL)))

    @torch.no_grad()
    @set_float32_precision()
    def encode(self, vectors_MD: Tensor) -> Tensor:
        """Return the standardized latents (M, L) of parameter vectors (M, D), on the CPU."""
        latents: list[Tensor] = []
        for batch in vectors_MD.split(self._vectors_per_pass):
            encoded_BL = self.autoencoder.encode(self.normalizer.normalize(batch.to(self.device)))
            latents.append(self.latent_normalizer.normalize(encoded_BL).cpu())
        return torch.cat(latents)

    def reconstruct(self, vectors_MD: Tensor) -> Tensor:
        """Encode and decode parameter vectors, (M, D) to (M, D) on the CPU."""
        latents_ML = self.encode(vectors_MD).to(self.device)
        return torch.cat([self.decode(batch).cpu() for batch in latents_ML.split(self._vectors_per_pass)])


def count_vectors_per_pass(num_params: int) -> int:
    """Return how many vectors of `num_params` numbers an autoencoder takes together, which bounds their memory."""
    return min(MAX_VECTORS_PER_PASS, max(1, MAX_NUMBERS_PER_PASS // num_params))


def _rebuild_normalizer(state: Mapping[str, Tensor], name: str) -> Normalizer:
    """Rebuild the normalizer called `name` from the tensors of a generator file."""
    return Normalizer(state[f"{name}.mean"], state[f"{name}.std"], state[f"{name}.log"])
