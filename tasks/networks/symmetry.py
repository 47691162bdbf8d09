"""The exchangeable hidden units of a network, derived from its traced graph.

The positions along an axis of a parameter are exchangeable, unless some operation reads their order. The graph says
which axes of which parameters must be permuted together: `tasks.networks.operations` has a rule for each kind of
operation. All axes that meet an operation without a rule are frozen, as are images and logits.
"""

import copy
import logging
import operator
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from core.checkpoints.subset import ParameterSubset, flatten, get_floating_entries, resolve_subset, unflatten
from core.checkpoints.symmetry import PermutationSymmetry, UnitAxis, UnitGroup
from core.runtime.seeding import generator_for
from tasks.networks.factors import Axis, Factor, count, expand
from tasks.networks.operations import RULES, Traced, freeze_all

log = logging.getLogger(__name__)

TOLERANCE = 1e-8  # largest difference of logits that is rounding in float64, relative to the largest logit


def find_symmetry(model: nn.Module, subset: ParameterSubset, image_1CSS: Tensor) -> PermutationSymmetry:
    """Return the exchangeable units of `model` whose parameters lie in `subset`.

    Args:
        model: The network, which stays as it is.
        subset: The generated parameters.
        image_1CSS: An example image of the right size.
    """
    return PermutationSymmetry.within(subset, find_groups(model, image_1CSS))


def find_groups(model: nn.Module, image_1CSS: Tensor) -> tuple[UnitGroup, ...]:
    """Return all groups of exchangeable units of a network in eval mode, in the order of its parameters.

    There are none, and the log says why, if `torch.export` cannot trace the network, or if permuting all groups at
    random changes the logits.
    """
    try:
        twin = copy.deepcopy(model).cpu().double().eval()
        image_1CSS = image_1CSS.cpu().double()
        groups = trace_groups(twin, image_1CSS)
        change = measure_change(twin, groups, image_1CSS)
    except Exception as error:  # torch.export raises many kinds of errors; a network may also be impossible to copy
        reason = str(error).split("\n")[0]
        log.info("Hidden units are not matched: the network has no trace (%s: %s)", type(error).__name__, reason)
        return ()
    if not change <= TOLERANCE:
        log.warning("Hidden units are not matched: permuting them changes the logits by %.1e of the largest", change)
        return ()
    return groups


def trace_groups(model: nn.Module, image_1CSS: Tensor) -> tuple[UnitGroup, ...]:
    """Return the groups of exchangeable units that the traced graph of a network in eval mode has."""
    with torch.no_grad():
        # Decomposing nothing only replaces operations in place, which could change a tensor under another name.
        program = torch.export.export(model, (image_1CSS,)).run_decompositions({})
        graph_module = program.module(check_guards=False)
    entries = get_floating_entries(model)
    # A tensor with two names is two entries of a vector, of which the graph has only one.
    names = Counter(map(id, entries.values()))
    values: dict[fx.Node, Any] = {}
    parameters: dict[str, list[Axis]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.target in entries and names[id(entries[node.target])] == 1:
            parameters.setdefault(node.target, Traced.new(entries[node.target].shape, frozen=False).axes)
            values[node] = Traced(parameters[node.target])
        elif node.op == "get_attr":
            values[node] = freeze_like(operator.attrgetter(node.target)(graph_module))
        elif node.op == "output":
            freeze_all(fx.map_arg(node.args, values.__getitem__))
        else:
            values[node] = trace_node(node, values)
    return collect_groups(parameters)


def trace_node(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """Return the result of one operation: a `Traced` tensor, a list of them, or None for anything else."""
    args: Any = fx.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.map_arg(node.kwargs, values.__getitem__)
    if node.target is operator.getitem:
        return args[0][args[1]]
    if isinstance(node.target, torch._ops.OpOverload):
        schema = node.target._schema
        arguments = {argument.name: argument.default_value for argument in schema.arguments}
        arguments |= dict(zip(arguments, args, strict=False)) | kwargs
        rule = RULES.get(schema.name.removeprefix("aten::"))
        if rule and (found := rule(arguments, tuple(getattr(node.meta["val"], "shape", ())))) is not None:
            return found
    freeze_all((args, kwargs))
    return freeze_like(node.meta.get("val"))


def freeze_like(result: Any) -> Any:
    """Return frozen stand-ins for the tensors that an operation without a rule returns."""
    if isinstance(result, Tensor):
        return Traced.new(result.shape, frozen=True)
    return list(map(freeze_like, result)) if isinstance(result, list | tuple) else None


def collect_groups(parameters: Mapping[str, list[Axis]]) -> tuple[UnitGroup, ...]:
    """Return a group for each factor that is not frozen, with all axes on which it occurs."""
    places: dict[Factor, list[UnitAxis]] = {}
    for name, axes in parameters.items():
        for axis, factors in enumerate(axes):
            outer, length = 1, count(factors)
            for factor in expand(factors):
                places.setdefault(factor, []).append(UnitAxis(name, axis, outer, length // (outer * factor.size)))
                outer *= factor.size
    return tuple(UnitGroup(factor.size, tuple(axes)) for factor, axes in places.items() if not factor.frozen)


def measure_change(model: nn.Module, groups: tuple[UnitGroup, ...], image_1CSS: Tensor) -> float:
    """Return how much random permutations change the logits of a float64 network, relative to the largest logit.

    All entries get random values, because a new network has zeros and ones that hide errors.
    """
    subset, generator = resolve_subset(model, "all"), generator_for(0, "check the symmetry")
    symmetry = PermutationSymmetry.within(subset, groups)
    vector_D = flatten(model, subset).double()
    vector_D += 0.1 * torch.randn(vector_D.shape, generator=generator)
    vector_D[subset.variances_D] = vector_D[subset.variances_D].abs() + 0.5
    order_D = torch.from_numpy(symmetry.find_order(symmetry.draw_permutations(generator)))
    with torch.no_grad():
        logits_BC, permuted_BC = (
            torch.func.functional_call(model, unflatten(each, subset), (image_1CSS.clone(),))
            for each in (vector_D, vector_D[order_D])
        )
    return float((logits_BC - permuted_BC).abs().max() / logits_BC.abs().max())
