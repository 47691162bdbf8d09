"""The interface of every generator of weights, as scoring, export and reports use it.

M generated models · B batch · D parameters per vector · L numbers per latent.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from core.checkpoints.subset import ParameterSubset
from core.runtime.artifacts import save_artifact

KIND = "generator"
Progress = Callable[[Iterable[Sequence[int]]], Iterable[Sequence[int]]]  # wraps batches of model numbers, as tqdm does
OnStep = Callable[[float, Tensor], None]  # (timestep, state of the batch)


class WeightGenerator(nn.Module, ABC):
    """A source of new parameter vectors, fitted to checkpoints.

    All tensors of a generator are parameters or buffers, so that `save` and `fingerprint` work for every kind. To add
    a kind, derive from this class, name it in `core.generation.generator_file`, and fit it in `core.training`.

    Args:
        recipes: The class and the arguments of every network inside, as plain values.
        subset: The generated parameters.
        trained_on: "fingerprint" and "k" of the checkpoints, and "seed" and "seconds" of the training.
    """

    kind: ClassVar[str]  # the name of this kind of generator in a generator file

    def __init__(self, *, recipes: Mapping[str, Any], subset: ParameterSubset, trained_on: Mapping[str, Any]):
        super().__init__()
        self.recipes, self.subset, self.trained_on = dict(recipes), subset, dict(trained_on)

    @classmethod
    @abstractmethod
    def from_file(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Rebuild the generator that `save` wrote from the tensors and the metadata of its file."""

    @abstractmethod
    def sample(
        self,
        seed: int,
        indices: Sequence[int],
        *,
        batch_size: int = 200,
        progress: Progress = iter,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Generate vectors (M, D) on the CPU, one for each index.

        Model `i` of a seed is the same vector (to float rounding) in any batch and on any device.

        Args:
            seed: Decides all random numbers of model `i`, together with `i`.
            indices: The numbers `i` of the M models.
            batch_size: Models generated at once.
            progress: Wraps the iterable of batches, to show a progress bar.
            on_step: Called as on_step(timestep, state of the batch) after each step, if `has_steps`; `decode` turns
                the state into vectors.

        Raises:
            UserError: `indices` is empty, or `batch_size` is below 1.
        """

    @property
    def has_steps(self) -> bool:
        """Whether models are generated in steps, so that `sample` calls `on_step`."""
        return False

    def decode(self, state: Tensor) -> Tensor:
        """Decode a state that `on_step` received to vectors (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no steps")

    @property
    def has_encoder(self) -> bool:
        """Whether `encode` and `reconstruct` are implemented."""
        return False

    def encode(self, vectors_MD: Tensor) -> Tensor:
        """Return the latents (M, L) of parameter vectors (M, D), on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder")

    def reconstruct(self, vectors_MD: Tensor) -> Tensor:
        """Encode and decode parameter vectors, (M, D) to (M, D) on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder")

    def use_sampler(self, sampler: Mapping[str, Any] | None) -> Self:
        """Choose the sampler of `sample` and return the generator.

        A generator without a sampler ignores the choice.
        """
        return self

    @property
    def fingerprint(self) -> str:
        """A hash of the trained tensors and of the recipes, which include the sampler."""
        digest = hashlib.sha256(json.dumps(self.recipes, sort_keys=True).encode())
        for tensor in self.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """The device that holds the tensors."""
        return next(chain(self.parameters(), self.buffers())).device

    def save(self, path: Path) -> None:
        """Write the generator file. If writing fails, an existing file stays unchanged."""
        metadata = {
            "generator": self.kind,
            "recipes": self.recipes,
            "subset": self.subset.to_metadata(),
            "trained_on": self.trained_on,
        }
        save_artifact(path, KIND, self.state_dict(), metadata=metadata)
