"""M generated models in two files: the network that all of them share, and one vector per model.

M generated models · D numbers in one flattened subset.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.checkpoints.low_rank import LowRankUpdate, add_updates
from core.checkpoints.subset import ParameterSubset, unflatten
from core.runtime.artifacts import load_artifact, replace_atomically, save_artifact
from core.runtime.errors import UserError

NETWORK_NAME, VECTORS_NAME = "network.safetensors", "vectors.safetensors"
NETWORK_KIND, VECTORS_KIND = "network", "generated vectors"  # the kinds that the headers of the two files name
WRITE_AGAIN = "Write the folder again with python train_p_diff.py mode=generate and the overrides of the run"


@dataclass(frozen=True, kw_only=True)
class GeneratedModels:
    """M generated models: the network that they share, and the vectors that replace a part of it.

    Raises:
        UserError: The vectors, the subset and the network do not fit together.
    """

    vectors_MD: Tensor  # row i belongs to model i of the seed
    subset: ParameterSubset
    network: Mapping[str, Tensor]  # the whole state dict of the checkpoints' network, without adapters
    seed: int
    generator: str  # the fingerprint of the generator, which covers its weights and its sampler

    def __post_init__(self) -> None:
        shapes = dict(zip(self.subset.names, self.subset.shapes, strict=True))
        fits = self.vectors_MD.shape[1:] == (self.subset.num_params,)
        for update in self.subset.updates:
            outputs, inputs = shapes.pop(update.b, ())[:1], shapes.pop(update.a, ())[1:]
            shapes[update.weight] = outputs + inputs
        if not fits or any(name not in self.network or self.network[name].shape != shapes[name] for name in shapes):
            raise UserError(
                f"vectors of shape {tuple(self.vectors_MD.shape)} for {len(self.subset.names)} tensors do not fit the "
                f"network. {WRITE_AGAIN}"
            )

    def __len__(self) -> int:
        return len(self.vectors_MD)

    @property
    def identity(self) -> dict[str, Any]:
        """The seed and the generator, which decide every model, and the number of models."""
        return {"seed": self.seed, "generator": self.generator, "num_models": len(self)}

    def name_file(self, number: int) -> str:
        """Return the file name of one full state dict, padded with zeros so that names sort by number."""
        return f"{number:0{max(3, len(str(len(self) - 1)))}}.safetensors"

    def state_dict(self, number: int) -> dict[str, Tensor]:
        """Return the full state dict of one model; its tensors share memory with the vectors and the network.

        Low-rank updates are added to their weights, so the network needs no adapters.
        """
        values = unflatten(self.vectors_MD[number], self.subset)
        factors = {name: values.pop(name) for update in self.subset.updates for name in (update.a, update.b)}
        return {**add_updates(self.network, factors, self.subset.updates), **values}

    def save(self, folder: Path) -> None:
        """Write the network and the vectors into an existing folder, as two files.

        Raises:
            UserError: A file cannot be written.
        """
        save_artifact(folder / NETWORK_NAME, NETWORK_KIND, self.network, metadata={})
        stops = list(accumulate(self.subset.sizes))
        places = zip(self.subset.names, self.subset.shapes, [0, *stops], stops, strict=False)
        metadata: dict[str, Any] = {
            "seed": self.seed,
            "generator": self.generator,
            "indices": list(range(len(self))),
            "tensors": [dict(zip(("name", "shape", "start", "stop"), place, strict=True)) for place in places],
        }
        if self.subset.updates:
            metadata["updates"] = [asdict(update) for update in self.subset.updates]
        save_artifact(folder / VECTORS_NAME, VECTORS_KIND, {"vectors": self.vectors_MD}, metadata=metadata)

    @classmethod
    def load(cls, folder: Path) -> "GeneratedModels":
        """Open the two files of a folder and check their hashes, which reads all numbers once.

        The tensors stay memory-mapped, so models that are not used can leave the memory again.

        Raises:
            UserError: A file is missing or damaged, or the two files do not belong together.
        """
        tensors, metadata = load_artifact(folder / VECTORS_NAME, VECTORS_KIND, WRITE_AGAIN)
        network, _ = load_artifact(folder / NETWORK_NAME, NETWORK_KIND, WRITE_AGAIN)
        try:
            shapes = tuple(tuple(tensor["shape"]) for tensor in metadata["tensors"])
            updates = tuple(LowRankUpdate(**update) for update in metadata.get("updates", ()))
            return cls(
                vectors_MD=tensors["vectors"],
                subset=ParameterSubset(tuple(tensor["name"] for tensor in metadata["tensors"]), shapes, updates),
                network=network,
                seed=metadata["seed"],
                generator=metadata["generator"],
            )
        except KeyError as error:
            raise UserError(f"{folder / VECTORS_NAME} lacks {error}. {WRITE_AGAIN}") from error
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error

    def save_state_dict(self, number: int, path: Path) -> None:
        """Write the full state dict of one model.

        Raises:
            UserError: The file cannot be written.
        """
        state = {name: tensor.contiguous() for name, tensor in self.state_dict(number).items()}
        with replace_atomically(path) as temporary:
            save_file(state, temporary, self._make_header(number))

    def is_saved(self, number: int, path: Path) -> bool:
        """Return whether a file holds exactly what `save_state_dict` would write for this model."""
        state = self.state_dict(number)
        try:
            with safe_open(path, framework="pt") as file:
                return (
                    file.metadata() == self._make_header(number)
                    and set(file.keys()) == state.keys()
                    and all(are_equal(file.get_tensor(name), tensor) for name, tensor in state.items())
                )
        except (OSError, SafetensorError):
            return False

    def _make_header(self, number: int) -> dict[str, str]:
        return {"source": "p_diff", "seed": str(self.seed), "index": str(number)}


def are_equal(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and bytes, so that NaN equals NaN."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
