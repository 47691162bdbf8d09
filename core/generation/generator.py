"""What scoring, export and reports ask of a generator, whatever it is inside.

M generated models · D numbers in one flattened subset.
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
Progress = Callable[[Iterable[Sequence[int]]], Iterable[Sequence[int]]]
OnStep = Callable[[int, Tensor], None]


class WeightGenerator(nn.Module, ABC):
    """A source of new parameter vectors, fitted to checkpoints.

    Its tensors are parameters and buffers, so that one file and one fingerprint serve every kind. To add a kind,
    derive from this class, name it in `core.generation.generator_file`, and fit it in `core.training`.

    Args:
        recipes: Plain values that say how to build what the tensors fill.
        subset: The generated parameters.
        trained_on: "fingerprint" and "k" of the checkpoints, and "seed" and "seconds" of the training.
    """

    kind: ClassVar[str]  # in its file

    def __init__(self, *, recipes: Mapping[str, Any], subset: ParameterSubset, trained_on: Mapping[str, Any]):
        super().__init__()
        self.recipes, self.subset, self.trained_on = dict(recipes), subset, dict(trained_on)

    @classmethod
    @abstractmethod
    def from_file(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """Return the generator that `save` wrote, from the tensors and the metadata of its file."""

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

        Model `i` of a seed is the same vector (to float rounding) in any batch, on any device.

        Args:
            seed: Decides every draw, together with the index.
            indices: The numbers of the models.
            batch_size: Models generated at once.
            progress: Wraps the batches, to show how many are done.
            on_step: Called with (timestep, state of the batch) where models arise in steps; `decode` turns such a
                state into vectors.

        Raises:
            UserError: There is no index, or the batch size is below 1.
        """

    @property
    def has_steps(self) -> bool:
        """Whether models arise in steps that `on_step` sees."""
        return False

    def decode(self, state: Tensor) -> Tensor:
        """Return the vectors (B, D) that a state seen by `on_step` would decode to."""
        raise NotImplementedError(f"{type(self).__name__} has no steps")

    @property
    def has_encoder(self) -> bool:
        """Whether `encode` and `reconstruct` can be asked for."""
        return False

    def encode(self, vectors_MD: Tensor) -> Tensor:
        """Return the latents (M, L) of parameter vectors (M, D), on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder")

    def reconstruct(self, vectors_MD: Tensor) -> Tensor:
        """Return vectors (M, D) after encoding and decoding, (M, D) on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder")

    def use_sampler(self, sampler: Mapping[str, Any] | None) -> Self:
        """Sample with another sampler than the one trained with, where there is a choice; return the generator."""
        return self

    @property
    def fingerprint(self) -> str:
        """The identity of the trained tensors and the recipes, the sampler among them."""
        digest = hashlib.sha256(json.dumps(self.recipes, sort_keys=True).encode())
        for tensor in self.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """The place of the tensors."""
        return next(chain(self.parameters(), self.buffers())).device

    def save(self, path: Path) -> None:
        """Write the generator, whole or not at all."""
        metadata = {
            "generator": self.kind,
            "recipes": self.recipes,
            "subset": self.subset.to_metadata(),
            "trained_on": self.trained_on,
        }
        save_artifact(path, KIND, self.state_dict(), metadata=metadata)
