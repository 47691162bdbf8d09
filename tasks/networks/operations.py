"""Rules of operations: how the positions along the axes of their results belong to those of their arguments.

A rule holds for any permutation: if all factors of its arguments are permuted, the result is permuted likewise, and has
no other change. A rule returns None for a case that it does not cover.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.networks.factors import Axis, count, freeze, new_axis, regroup, unify


@dataclass(frozen=True)
class Traced:
    """A tensor of the traced network, known by the factors of its axes."""

    axes: list[Axis]

    @classmethod
    def new(cls, shape: Sequence[int], *, frozen: bool) -> "Traced":
        """Return a tensor whose axes belong to no others."""
        return cls([new_axis(size, frozen=frozen) for size in shape])


Arguments = Mapping[str, Any]  # by their names in the operation's schema, with `Traced` for tensors
Shape = tuple[int, ...]  # of the result; empty if there are several results
Rule = Callable[[Arguments, Shape], Traced | list[Traced] | None]


def broadcast(*tensors: Sequence[Axis]) -> list[Axis]:
    """Return the axes of tensors that are combined number by number, after making them equal."""
    rank = max(map(len, tensors))
    padded = [[*([[]] * (rank - len(axes))), *axes] for axes in tensors]
    found = []
    for aligned in zip(*padded, strict=True):
        long = [axis for axis in aligned if axis]  # an axis of length 1 has no factors, and is repeated
        for axis in long[1:]:
            unify(long[0], axis)
        found.append(long[0] if long else [])
    return found


def combine(arguments: Arguments, shape: Shape) -> Traced:
    """Trace a function that acts on each number alone, or on each number and all others along an axis (softmax)."""
    return Traced(broadcast(*(each.axes for each in arguments.values() if isinstance(each, Traced))))


def multiply_matrices(arguments: Arguments, shape: Shape) -> Traced | None:
    """Trace a product of (batches of) matrices."""
    left, right = [each.axes for each in arguments.values() if isinstance(each, Traced)]
    if min(len(left), len(right)) < 2:
        return None
    unify(left[-1], right[-2])
    return Traced([*broadcast(left[:-2], right[:-2]), left[-2], right[-1]])


def apply_linear(arguments: Arguments, shape: Shape) -> Traced:
    """Trace a linear layer."""
    tokens, (outputs, inputs) = arguments["input"].axes, arguments["weight"].axes
    unify(tokens[-1], inputs)
    if arguments["bias"] is not None:
        unify(outputs, arguments["bias"].axes[0])
    return Traced([*tokens[:-1], outputs])


def convolve(arguments: Arguments, shape: Shape) -> Traced | None:
    """Trace a convolution: the channels of each of its groups are permuted alike, and whole groups among each other."""
    maps, (outputs, inputs, *kernel) = arguments["input"].axes, arguments["weight"].axes
    if len(maps) != len(kernel) + 2:
        return None
    groups = new_axis(arguments["groups"])
    unify(maps[1], [*groups, *inputs])
    unify(outputs, [*groups, *new_axis(count(outputs) // arguments["groups"])])
    if arguments["bias"] is not None:
        unify(outputs, arguments["bias"].axes[0])
    for axis in (*kernel, *maps[2:]):
        freeze(axis)
    return Traced([maps[0], outputs, *Traced.new(shape[2:], frozen=True).axes])


def normalize_last(arguments: Arguments, shape: Shape) -> Traced:
    """Trace LayerNorm or RMSNorm, whose statistics over the last axes do not depend on an order."""
    affine = [arguments[name].axes for name in ("weight", "bias") if arguments.get(name) is not None]
    return Traced(broadcast(arguments["input"].axes, *affine))


def normalize_channels(arguments: Arguments, shape: Shape) -> list[Traced]:
    """Trace BatchNorm with running statistics."""
    maps = arguments["input"].axes
    for name in ("weight", "bias", "running_mean", "running_var"):
        if arguments[name] is not None:
            unify(maps[1], arguments[name].axes[0])
    return [Traced(maps), Traced([[]]), Traced([[]])]  # two results are empty outside of training


def normalize_groups(arguments: Arguments, shape: Shape) -> Traced:
    """Trace GroupNorm: channels of each group are permuted alike, and whole groups among each other."""
    maps, num_groups = arguments["input"].axes, arguments["num_groups"]
    unify(maps[1], [*new_axis(num_groups), *new_axis(count(maps[1]) // num_groups)])
    for name in ("weight", "bias"):
        if arguments[name] is not None:
            unify(maps[1], arguments[name].axes[0])
    return Traced(maps)


def pool(num_axes: int) -> Rule:
    """Return the rule of pooling over the last axes."""

    def rule(arguments: Arguments, shape: Shape) -> Traced:
        axes = _first(arguments).axes
        for axis in axes[-num_axes:]:
            freeze(axis)
        return Traced([*axes[:-num_axes], *Traced.new(shape[-num_axes:], frozen=True).axes])

    return rule


def reduce(arguments: Arguments, shape: Shape) -> Traced:
    """Trace a sum, mean or extremum over some axes, which does not depend on their order."""
    axes, dims = _first(arguments).axes, arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or range(len(axes))  # no axis means all axes
    reduced = {dim % len(axes) for dim in dims}
    if arguments.get("keepdim"):
        return Traced([[] if dim in reduced else axis for dim, axis in enumerate(axes)])
    return Traced([axis for dim, axis in enumerate(axes) if dim not in reduced])


def reshape(arguments: Arguments, shape: Shape) -> Traced:
    """Trace an operation that reads the same numbers in the same order as another shape."""
    return Traced(regroup(_first(arguments).axes, shape))


def permute(arguments: Arguments, shape: Shape) -> Traced:
    """Trace a new order of all axes."""
    return Traced([_first(arguments).axes[dim] for dim in arguments["dims"]])


def transpose(arguments: Arguments, shape: Shape) -> Traced:
    """Trace the exchange of two axes."""
    axes = list(_first(arguments).axes)
    one, other = arguments["dim0"], arguments["dim1"]
    axes[one], axes[other] = axes[other], axes[one]
    return Traced(axes)


def repeat_single(arguments: Arguments, shape: Shape) -> Traced:
    """Trace `expand`: the numbers along a new axis are equal, so that any permutation of them is the same."""
    axes = _first(arguments).axes
    padded = [*([[]] * (len(shape) - len(axes))), *axes]
    return Traced([axis or new_axis(size) for axis, size in zip(padded, shape, strict=True)])


def select(arguments: Arguments, shape: Shape) -> Traced:
    """Trace the choice of one position along an axis."""
    axes = list(_first(arguments).axes)
    freeze(axes.pop(arguments["dim"]))
    return Traced(axes)


def slice_axis(arguments: Arguments, shape: Shape) -> Traced:
    """Trace the choice of some positions along an axis."""
    axes, dim = list(_first(arguments).axes), arguments["dim"]
    if count(axes[dim]) != shape[dim]:
        freeze(axes[dim])
        axes[dim] = new_axis(shape[dim], frozen=True)
    return Traced(axes)


def unbind(arguments: Arguments, shape: Shape) -> list[Traced]:
    """Trace the separation of all positions along an axis."""
    axes = list(_first(arguments).axes)
    removed = axes.pop(arguments["dim"])
    freeze(removed)
    return [Traced(axes)] * count(removed)


def split_evenly(arguments: Arguments, shape: Shape) -> list[Traced] | None:
    """Trace the separation of an axis into parts of equal length, which are permuted alike."""
    axes, dim = list(_first(arguments).axes), arguments["dim"]
    length, sizes = count(axes[dim]), arguments.get("split_sizes") or arguments["split_size"]
    sizes = [sizes] if isinstance(sizes, int) else sizes
    if len(set(sizes)) > 1 or length % sizes[0]:
        return None
    parts, axes[dim] = regroup([axes[dim]], [length // sizes[0], sizes[0]])
    freeze(parts)
    return [Traced(axes)] * (length // sizes[0])


def concatenate(arguments: Arguments, shape: Shape) -> Traced:
    """Trace the concatenation along an axis, which is frozen."""
    dim = arguments["dim"] % len(shape)
    tensors = [list(each.axes) for each in arguments["tensors"]]
    for axes in tensors:
        freeze(axes[dim])
        axes[dim] = []
    joined = broadcast(*tensors)
    joined[dim] = new_axis(shape[dim], frozen=True)
    return Traced(joined)


def attend(arguments: Arguments, shape: Shape) -> Traced | None:
    """Trace attention without a mask: whole heads, and the features of all heads alike, are exchangeable."""
    if arguments["attn_mask"] is not None or any(arguments[name] for name in ("dropout_p", "is_causal", "enable_gqa")):
        return None
    queries, keys, values = (arguments[name].axes for name in ("query", "key", "value"))
    unify(queries[-1], keys[-1])
    unify(keys[-2], values[-2])
    return Traced([*broadcast(queries[:-2], keys[:-2], values[:-2]), queries[-2], values[-1]])


def _first(arguments: Arguments) -> Traced:
    """Return the first argument, which is a tensor."""
    return next(iter(arguments.values()))


def freeze_all(arguments: Any) -> None:
    """Forbid all permutations of the tensors among the arguments of an unknown operation."""
    if isinstance(arguments, Traced):
        for axis in arguments.axes:
            freeze(axis)
    elif isinstance(arguments, Mapping):
        freeze_all(list(arguments.values()))
    elif isinstance(arguments, list | tuple):
        for each in arguments:
            freeze_all(each)


COMBINING = [
    "add", "sub", "rsub", "mul", "div", "maximum", "minimum", "addcmul", "lerp", "pow", "neg", "abs", "sign", "exp",
    "log", "sqrt", "rsqrt", "reciprocal", "square", "erf", "sin", "cos", "clamp", "clamp_min", "clamp_max", "relu",
    "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "log_sigmoid", "tanh",
    "softplus", "hardtanh", "hardswish", "hardsigmoid", "softmax", "log_softmax", "clone", "contiguous", "alias",
    "detach", "to", "_to_copy",
]  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(COMBINING, combine),
    **dict.fromkeys(("matmul", "mm", "bmm"), multiply_matrices),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolve),
    **dict.fromkeys(("layer_norm", "rms_norm"), normalize_last),
    **dict.fromkeys(("sum", "mean", "amax", "amin"), reduce),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("split", "split_with_sizes"), split_evenly),
    **{f"{kind}_pool{num_axes}d": pool(num_axes) for kind in ("max", "avg", "adaptive_avg") for num_axes in (1, 2, 3)},
    "linear": apply_linear,
    "_native_batch_norm_legit_no_training": normalize_channels,
    "group_norm": normalize_groups,
    "permute": permute,
    "transpose": transpose,
    "expand": repeat_single,
    "select": select,
    "slice": slice_axis,
    "unbind": unbind,
    "cat": concatenate,
    "scaled_dot_product_attention": attend,
}  # names of operations in torch's schema, without "aten::"
