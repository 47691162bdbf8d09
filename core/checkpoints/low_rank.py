"""Low-rank updates: products of two generated matrices that are added to frozen weights.

LoRA (Hu et al. 2022, arXiv 2106.09685) replaces a frozen weight W by W + scale · B A. Many pairs of matrices have the
same product, for example B G and G⁻¹ A for any invertible G. They are the same model, although their numbers differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

WEIGHT = "weight"  # the last part of the names of W


@dataclass(frozen=True)
class LowRankUpdate:
    """A product scale · B A that is added to a frozen weight W, whose axes after the first count as one.

    The state dict of a network with adapters has other names for W and for the entries beside it, such as the bias.
    """

    weight: str  # the name of W in the network without adapters, "fc.weight"
    frozen: str  # the name of W in the network with adapters
    a: str  # the name of A (rank, inputs)
    b: str  # the name of B (outputs, rank)
    scale: float

    def multiply(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Return scale · B A as a matrix (outputs, inputs), float64."""
        return self.scale * factors[self.b].double().flatten(1) @ factors[self.a].double().flatten(1)


def add_updates(
    network: Mapping[str, Tensor], factors: Mapping[str, Tensor], updates: Iterable[LowRankUpdate]
) -> dict[str, Tensor]:
    """Return the state dict of a network without adapters, with each product added to its weight.

    Args:
        network: The state dict without the products, as `remove_updates` returns it.
        factors: A and B of every update, by name.
        updates: The products to add.
    """
    merged = dict(network)
    for update in updates:
        weight = network[update.weight]
        merged[update.weight] = (weight.double() + update.multiply(factors).reshape(weight.shape)).to(weight.dtype)
    return merged


def remove_updates(network: Mapping[str, Tensor], updates: Iterable[LowRankUpdate]) -> dict[str, Tensor]:
    """Return the state dict of a network with adapters, without A and B and under the names of the plain network."""
    updates = tuple(updates)
    factors = {name for update in updates for name in (update.a, update.b)}
    layers = {update.frozen.removesuffix(WEIGHT): update.weight.removesuffix(WEIGHT) for update in updates}
    plain = {}
    for name, tensor in network.items():
        if name not in factors:
            layer, _, entry = name.rpartition(".")
            plain[layers.get(f"{layer}.", f"{layer}." if layer else "") + entry] = tensor
    return plain
