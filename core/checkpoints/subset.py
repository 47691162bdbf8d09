"""Which parameters are generated, and in which order: the one place that lists them.

K checkpoints · D numbers in one flattened subset.
"""

import fnmatch
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.runtime.errors import UserError, nearest

NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class ParameterSubset:
    """The generated entries of a state dict, in the order in which they are flattened.

    Stored inside every artifact. Entries are parameters and, for whole networks, BatchNorm running statistics.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module, names: Collection[str]) -> "ParameterSubset":
        """Return the subset of `model` with these names, in the model's own order.

        Raises:
            UserError: The model does not have a name, or there is no name at all.
        """
        entries = floating_entries(model)
        if unknown := sorted(set(names) - entries.keys()):
            raise UserError(f"the network has no parameter {unknown[0]!r}: {nearest(unknown[0], entries)}")
        if not names:
            raise UserError("the parameter subset is empty; choose last_norms, all, or globs that match something")
        ordered = tuple(name for name in entries if name in set(names))
        return cls(ordered, tuple(tuple(entries[name].shape) for name in ordered))

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> "ParameterSubset":
        """Undo `to_metadata`."""
        return cls(tuple(metadata["names"]), tuple(tuple(shape) for shape in metadata["shapes"]))

    def to_metadata(self) -> dict[str, Any]:
        """JSON-ready form, for artifact headers."""
        return asdict(self)

    @property
    def sizes(self) -> list[int]:
        """The number of values of each entry."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def num_params(self) -> int:
        """The size of a flattened vector, D."""
        return sum(self.sizes)

    @property
    def variances_D(self) -> Tensor:
        """A mask (D,) of the running variances, which must stay positive."""
        return torch.cat(
            [
                torch.full((size,), name.endswith("running_var"))
                for name, size in zip(self.names, self.sizes, strict=True)
            ]
        )

    def name_at(self, index: int) -> str:
        """Return the entry that coordinate `index` of a flattened vector belongs to."""
        for name, size in zip(self.names, self.sizes, strict=True):
            if index < size:
                return name
            index -= size
        raise IndexError(index)


def floating_entries(model: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point entries of the state dict, live: everything that can be generated."""
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if tensor.is_floating_point()}


def resolve_subset(model: nn.Module, subset: str | Sequence[str], count: int = 2) -> ParameterSubset:
    """Turn a configuration value into names.

    Args:
        model: The network that has the parameters.
        subset: "last_norms" (weight and bias of the last `count` normalization layers, the paper's choice),
            "all" (every parameter and running statistic), or globs such as ["layer4.1.bn*.*"].
        count: How many normalization layers `last_norms` takes.

    Raises:
        UserError: Nothing matches, or `subset` is none of these.
    """
    entries = floating_entries(model)
    if subset == "all":
        return ParameterSubset.of(model, entries)
    if subset == "last_norms":
        norms = normalization_layers(model)
        if not norms:
            raise UserError(
                "task.param.subset=last_norms, but the network has no normalization layer with parameters; "
                "give task.param.subset=all or a list of globs"
            )
        if not 1 <= count <= len(norms):
            raise UserError(
                f"task.param.count={count}, but the network has {len(norms)} normalization layers with parameters; "
                f"give 1 to {len(norms)}"
            )
        return ParameterSubset.of(
            model,
            [f"{norm}.{name}" for norm in norms[-count:] for name, _ in model.get_submodule(norm).named_parameters()],
        )
    if isinstance(subset, str):
        raise UserError(
            f'task.param.subset={subset!r}: expected last_norms, all, or a list of globs such as ["layer4.1.bn*.*"]'
        )
    names = {name for pattern in subset for name in matching_names(pattern, entries)}
    return ParameterSubset.of(model, names)


def matching_names(pattern: str, entries: Collection[str]) -> list[str]:
    """Return the names that match one glob.

    Raises:
        UserError: None does.
    """
    matched = fnmatch.filter(entries, pattern)
    if not matched:
        raise UserError(
            f"task.param.subset: no parameter of the network matches {pattern!r}; {nearest(pattern, entries)}"
        )
    return matched


def normalization_layers(model: nn.Module) -> list[str]:
    """Return the names of the normalization layers that have parameters, in the network's order."""
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, NORMALIZATIONS) or "Norm" in type(module).__name__)
        and getattr(module, "weight", None) is not None
    ]


def flatten(model: nn.Module, subset: ParameterSubset) -> Tensor:
    """Copy the subset out of `model` as one CPU vector of shape (D,), float32."""
    entries = floating_entries(model)
    parts = [entries[name].detach().reshape(-1).float().cpu() for name in subset.names]
    # On a CPU each part aliases the live weights, which a snapshot must not follow: `cat` copies, also a single part.
    return torch.cat(parts)


def unflatten(vector_D: Tensor, subset: ParameterSubset) -> dict[str, Tensor]:
    """Return views into `vector_D` by parameter name, for `torch.func.functional_call`.

    Raises:
        UserError: The vector does not have D numbers.
    """
    if vector_D.shape != (subset.num_params,):
        raise UserError(
            f"a vector of shape {tuple(vector_D.shape)} does not fit: the subset {subset.names[0]} … "
            f"{subset.names[-1]} has {subset.num_params} numbers"
        )
    parts = zip(subset.names, vector_D.split(subset.sizes), subset.shapes, strict=True)
    return {name: part.view(shape) for name, part, shape in parts}
