"""The trained generator: noise -> latent -> vector, as one object and one file.

M generated models · B batch · D numbers in one flattened subset · L numbers in one latent.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset
from core.diffusion.objective import NoiseSchedule
from core.diffusion.sampling import denoise, standard_normal
from core.runtime.artifacts import load_artifact, save_artifact
from core.runtime.errors import UserError
from core.runtime.precision import float32_products
from core.runtime.seeding import generator_for

KIND = "generator"
MOST_ROWS, NUMBERS_AT_ONCE = (
    200,
    20_000_000,
)  # vectors and their numbers in one pass of the autoencoder: 80 MB of float32
Recipe = Mapping[str, Any]  # {"_target_": class, argument: plain value, …}
# A file may come from elsewhere, so it may only name these; anything else could be any function of any package.
TRUSTED = re.compile(r"core\.networks\.\w+\.\w+|diffusers\.\w+Scheduler")


class WeightGenerator(nn.Module):
    """Samples flattened parameter vectors, and reconstructs given ones.

    Args:
        recipes: "autoencoder", "denoiser", "schedule" and "sampler", each as plain values, so that the file can say
            how to build what its tensors fill.
        denoiser: None where the latents are drawn from N(0, I) itself, as a VAE's are; "denoiser" and "sampler" are None then.
        subset: the generated parameters.
        trained_on: the fingerprint of the checkpoints, their K, and the settings of the training.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        subset: ParameterSubset,
        normalizer: Normalizer,
        latent_normalizer: Normalizer,
        autoencoder: nn.Module,
        denoiser: nn.Module | None,
        trained_on: Mapping[str, Any],
    ):
        super().__init__()
        self.recipes, self.subset, self.trained_on = dict(recipes), subset, dict(trained_on)
        self.normalizer, self.latent_normalizer = normalizer, latent_normalizer
        self.autoencoder, self.denoiser = autoencoder, denoiser
        self.schedule = NoiseSchedule(**recipes["schedule"])
        self.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """Identifies the trained tensors and the sampler."""
        digest = hashlib.sha256(json.dumps(self.recipes, sort_keys=True).encode())
        for tensor in self.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.normalizer.mean.device

    @property
    def _rows_at_once(self) -> int:
        """How many vectors of D numbers are encoded or decoded together."""
        return min(MOST_ROWS, max(1, NUMBERS_AT_ONCE // self.subset.num_params))

    def use_sampler(self, sampler: Recipe | None) -> "WeightGenerator":
        """Sample with another sampler than the one trained with; returns self. Without a denoiser there is none to choose."""
        self.recipes["sampler"] = dict(sampler) if self.denoiser is not None else None
        return self

    @torch.no_grad()
    @float32_products()
    def sample(
        self,
        seed: int,
        indices: Sequence[int],
        batch_size: int = 200,
        progress: Callable[[Iterable[Sequence[int]]], Iterable[Sequence[int]]] = iter,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Generated vectors (M, D) on the CPU, one for each index.

        Model `i` of a seed is the same vector (to float rounding) in any batch, on any device.

        Raises:
            UserError: no index, or a batch size below 1.
        """
        if not len(indices) or batch_size < 1:
            raise UserError(
                f"generation.num_models={len(indices)}, generation.batch_size={batch_size}: expected at least 1 of each"
            )
        batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        vectors = []
        for batch in progress(batches):
            latents_BL = self._sample_latents([generator_for(seed, "generate", index) for index in batch], on_step)
            vectors += [self.decode(part).cpu() for part in latents_BL.split(self._rows_at_once)]
        return torch.cat(vectors)

    def _sample_latents(
        self, generators: Sequence[torch.Generator], on_step: Callable[[int, Tensor], None] | None
    ) -> Tensor:
        """Standardized latents (B, L), one per random generator."""
        x_BL = standard_normal(self.autoencoder.latent_dim, generators, self.device)
        if self.denoiser is None:
            return x_BL
        sampler = self.recipes["sampler"]
        return denoise(
            self.denoiser, self.schedule, _build(sampler["scheduler"]), sampler["num_steps"], x_BL, generators, on_step
        )

    @torch.no_grad()
    @float32_products()
    def decode(self, latents_BL: Tensor) -> Tensor:
        """Standardized latents (B, L) to parameter vectors (B, D)."""
        return self.normalizer.unnormalize(self.autoencoder.decode(self.latent_normalizer.unnormalize(latents_BL)))

    @torch.no_grad()
    @float32_products()
    def encode(self, vectors_MD: Tensor) -> Tensor:
        """Return the standardized latents (M, L) of parameter vectors (M, D), on the CPU."""
        normalized = (
            self.normalizer.normalize(batch.to(self.device)) for batch in vectors_MD.split(self._rows_at_once)
        )
        return torch.cat(
            [self.latent_normalizer.normalize(self.autoencoder.encode(batch)).cpu() for batch in normalized]
        )

    def reconstruct(self, vectors_MD: Tensor) -> Tensor:
        """Encode and decode vectors, (M, D) to (M, D) on the CPU."""
        latents_ML = self.encode(vectors_MD).to(self.device)
        return torch.cat([self.decode(batch).cpu() for batch in latents_ML.split(self._rows_at_once)])

    def save(self, path: Path) -> None:
        """Write the generator, whole or not at all."""
        metadata = {"recipes": self.recipes, "subset": self.subset.to_metadata(), "trained_on": self.trained_on}
        save_artifact(path, KIND, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: Path) -> "WeightGenerator":
        """Read a generator file; runs no code from it.

        Raises:
            UserError: missing, damaged or foreign, or it names something other than a network of ours.
        """
        state, metadata = load_artifact(
            path,
            KIND,
            hint="train one with python train_p_diff.py mode=train, or say with output_dir=FOLDER where it is",
        )
        try:
            recipes, subset = metadata["recipes"], ParameterSubset.from_metadata(metadata["subset"])
            autoencoder = _build(recipes["autoencoder"], num_params=subset.num_params)
            generator = cls(
                recipes,
                subset,
                *(
                    Normalizer(*(state[f"{name}.{part}"] for part in ("mean", "std", "log")))
                    for name in ("normalizer", "latent_normalizer")
                ),
                autoencoder=autoencoder,
                denoiser=_build(recipes["denoiser"], latent_dim=autoencoder.latent_dim)
                if recipes["denoiser"]
                else None,
                trained_on=metadata["trained_on"],
            )
            generator.load_state_dict(state)
        except (KeyError, RuntimeError, TypeError, UserError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{path} does not hold a whole generator ({reason}); train again") from error
        return generator


def check_recipe(recipe: Recipe) -> None:
    """Raises `UserError` unless a recipe names a class that a file may name, and plain arguments."""
    target = recipe.get("_target_")
    if not TRUSTED.fullmatch(str(target)) or not all(map(_is_plain, recipe.values())):
        raise UserError(
            f"{target} is not a network of core.networks or a scheduler of diffusers with plain arguments; put your own class into core/networks"
        )


def _build(recipe: Recipe, **sizes: int) -> Any:
    """Instantiate a checked recipe.

    Raises:
        UserError: it may not be, or there is no such class, or the class refuses the arguments.
    """
    check_recipe(recipe)
    try:
        return instantiate(recipe, **sizes, _recursive_=False)  # else Hydra would also call whatever a list in it names
    except InstantiationException as error:
        raise UserError(f"{recipe['_target_']} cannot be made: {error.__cause__ or error}") from error


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a string or a list of such."""
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else not isinstance(value, Mapping)
