"""The parameter subset: the names, shapes and order of the parameters that are generated.

K checkpoints · D numbers in one flattened subset.
"""

import fnmatch
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core.checkpoints.low_rank import LowRankUpdate
from core.runtime.errors import UserError, suggest_names

NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class ParameterSubset:
    """The entries of a state dict that are generated, in the order in which they are flattened.

    Every artifact stores its subset. Entries are parameters and, for whole networks, BatchNorm running statistics.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    # The entries that act on the network only through products. They are not part of `repr`, because the fingerprints
    # of older files are hashes of it.
    updates: tuple[LowRankUpdate, ...] = field(default=(), repr=False)

    @classmethod
    def from_model(cls, model: nn.Module, names: Collection[str]) -> "ParameterSubset":
        """Return the subset of `model` with these names, in the order of its state dict.

        Raises:
            UserError: The model lacks a name, or `names` is empty.
        """
        entries = get_floating_entries(model)
        if unknown := sorted(set(names) - entries.keys()):
            raise UserError(f"the network has no parameter {unknown[0]!r}; {suggest_names(unknown[0], entries)}")
        if not names:
            raise UserError(
                "the parameter subset is empty. Set task.param.subset to last_norms, all or a list of globs"
            )
        ordered = tuple(name for name in entries if name in set(names))
        return cls(ordered, tuple(tuple(entries[name].shape) for name in ordered))

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> "ParameterSubset":
        """Return the subset that `to_metadata` described."""
        updates = tuple(LowRankUpdate(**update) for update in metadata.get("updates", ()))  # older files lack them
        return cls(tuple(metadata["names"]), tuple(tuple(shape) for shape in metadata["shapes"]), updates)

    def to_metadata(self) -> dict[str, Any]:
        """Return names, shapes and, if there are any, updates as values that fit into JSON, for artifact headers."""
        metadata = asdict(self)
        return metadata if self.updates else {name: metadata[name] for name in ("names", "shapes")}

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
        """A boolean mask (D,) of the running variances, which must stay positive."""
        return torch.cat(
            [
                torch.full((size,), name.endswith("running_var"))
                for name, size in zip(self.names, self.sizes, strict=True)
            ]
        )

    def find_name(self, index: int) -> str:
        """Return the name of the entry that holds coordinate `index` of a flattened vector.

        Raises:
            IndexError: `index` is not below D.
        """
        for name, size in zip(self.names, self.sizes, strict=True):
            if index < size:
                return name
            index -= size
        raise IndexError(index)


def get_floating_entries(model: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point entries of the state dict, because only these can be generated.

    The tensors share memory with the network.
    """
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if tensor.is_floating_point()}


def resolve_subset(model: nn.Module, subset: str | Sequence[str], count: int = 2) -> ParameterSubset:
    """Return the subset that the setting `task.param.subset` selects.

    Args:
        model: The network with the parameters.
        subset: "last_norms" (weight and bias of the last `count` normalization layers, the paper's choice),
            "all" (every parameter and running statistic), or a list of globs such as ["layer4.1.bn*.[wb]*"].
        count: The number of normalization layers that "last_norms" takes.

    Raises:
        UserError: `subset` is invalid, a glob matches nothing, or the network has fewer than `count` layers.
    """
    entries = get_floating_entries(model)
    if subset == "all":
        return ParameterSubset.from_model(model, entries)
    if subset == "last_norms":
        norms = find_normalization_layers(model)
        if not norms:
            raise UserError(
                "task.param.subset=last_norms is invalid, because the network has no normalization layer "
                "with parameters. Set task.param.subset=all or a list of globs"
            )
        if not 1 <= count <= len(norms):
            raise UserError(
                f"task.param.count={count} is invalid for a network with {len(norms)} normalization layers. "
                f"Set task.param.count to a number from 1 to {len(norms)}"
            )
        return ParameterSubset.from_model(
            model,
            [f"{norm}.{name}" for norm in norms[-count:] for name, _ in model.get_submodule(norm).named_parameters()],
        )
    if isinstance(subset, str):
        raise UserError(
            f"task.param.subset={subset!r} is invalid: expected last_norms, all or a list of globs. "
            'Set task.param.subset=last_norms, or a list such as ["layer4.1.bn*.[wb]*"]'
        )
    names = {name for pattern in subset for name in find_matching_names(pattern, entries)}
    return ParameterSubset.from_model(model, names)


def find_matching_names(pattern: str, entries: Collection[str]) -> list[str]:
    """Return the names that match a glob.

    Raises:
        UserError: No name matches.
    """
    matched = fnmatch.filter(entries, pattern)
    if not matched:
        raise UserError(f"task.param.subset: no parameter matches {pattern!r}; {suggest_names(pattern, entries)}")
    return matched


def find_normalization_layers(model: nn.Module) -> list[str]:
    """Return the names of the normalization layers that have parameters, in the order of the network."""
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, NORMALIZATIONS) or "Norm" in type(module).__name__)
        and getattr(module, "weight", None) is not None
    ]


def flatten(model: nn.Module, subset: ParameterSubset) -> Tensor:
    """Return a copy of the subset of `model` as one float32 vector (D,) on the CPU."""
    entries = get_floating_entries(model)
    parts = [entries[name].detach().reshape(-1).float().cpu() for name in subset.names]
    # On a CPU each part shares memory with the live weights; `cat` copies them, even a single part.
    return torch.cat(parts)


def unflatten(vector_D: Tensor, subset: ParameterSubset) -> dict[str, Tensor]:
    """Return views into `vector_D` (D,) by parameter name, for `torch.func.functional_call`.

    Raises:
        UserError: `vector_D` does not have shape (D,).
    """
    if vector_D.shape != (subset.num_params,):
        raise UserError(
            f"a vector of shape {tuple(vector_D.shape)} does not fit: the subset {subset.names[0]} … "
            f"{subset.names[-1]} has {subset.num_params} numbers"
        )
    parts = zip(subset.names, vector_D.split(subset.sizes), subset.shapes, strict=True)
    return {name: part.view(shape) for name, part, shape in parts}


def find_columns(names: Iterable[str], whole: ParameterSubset) -> Tensor:
    """Return where the numbers of these parameters lie in a flattened vector of `whole`, one after the other, int64."""
    columns = unflatten(torch.arange(whole.num_params), whole)
    return torch.cat([columns[name].reshape(-1) for name in names])
