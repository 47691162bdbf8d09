"""Splitting a network at its generated parameters, so that the part before them is computed once for all models.

B items in one chunk.
"""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitNetwork:
    """A network as two graphs: `suffix(prefix(inputs), parameters)` equals the network with these `parameters`.

    The prefix is the frozen part: every operation whose result does not depend on a generated parameter. The suffix is
    the rest. The tensors that cross the cut, from the prefix to the suffix, depend on the inputs only. They can
    therefore be kept and shared by all models.
    """

    prefix: fx.GraphModule
    suffix: fx.GraphModule
    names: tuple[str, ...]  # generated parameters, in the order of the suffix's arguments
    vectorizes: bool  # whether running many models at once is faster than one after the other

    def cache(self, *inputs: Any) -> tuple[Any, ...]:
        """Return the tensors that cross the cut for these inputs."""
        return self.prefix(*inputs)

    def run(self, crossing: tuple[Any, ...], parameters: Mapping[str, Tensor]) -> Any:
        """Return the output of the network with `parameters`, given the result of `cache`."""
        return self.suffix(*crossing, *(parameters[name] for name in self.names))


@dataclass(frozen=True)
class WholeNetwork:
    """A network that is not split, with the interface of `SplitNetwork`; the inputs themselves are cached."""

    model: nn.Module
    vectorizes: bool = False

    def cache(self, *inputs: Any) -> tuple[Any, ...]:
        """Return the inputs."""
        return inputs

    def run(self, crossing: tuple[Any, ...], parameters: Mapping[str, Tensor]) -> Any:
        """Return the output of the whole network with `parameters`."""
        copies = tree_map_only(Tensor, Tensor.clone, crossing)  # a network may write into its inputs
        return torch.func.functional_call(self.model, dict(parameters), copies)


@dataclass(frozen=True)
class FrozenBackbone(WholeNetwork):
    """A detector whose backbone is frozen: the images, the targets if there are any, and the features are cached."""

    def cache(self, *inputs: Any) -> tuple[Any, ...]:
        """Return the arguments of the network, the last of which are the features."""
        images, *targets = inputs
        detector: Any = self.model
        return images, targets[0] if targets else None, detector.extract_features(images)


def split_network(
    model: nn.Module, names: tuple[str, ...], inputs_B: Any, *, any_size: bool = False
) -> SplitNetwork | WholeNetwork:
    """Return `model` (in eval mode) cut at its generated parameters, for chunks shaped like `inputs_B`.

    If `torch.export` cannot trace the network, it is not split, and the log says why. Networks for lists of images
    depend on their number and sizes, so they are not traced. They can only share the features of a frozen backbone,
    which they compute in a method `extract_features`.

    Args:
        model: The network.
        names: The generated parameters.
        inputs_B: The inputs of one chunk.
        any_size: Whether the height and width of images differ between chunks.
    """
    if isinstance(inputs_B, list):
        if hasattr(model, "extract_features") and not any(name.startswith("backbone.") for name in names):
            return FrozenBackbone(model)
        log.info("Scoring with full forward passes: the generated parameters are in the backbone of a detector")
        return WholeNetwork(model)
    if takes_more(model):
        log.info(
            "Scoring with full forward passes: the network takes more than one argument, which the objective makes"
        )
        return WholeNetwork(model)
    sizes = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},) if any_size else None
    try:
        with torch.no_grad():
            program = torch.export.export(model, (inputs_B,), dynamic_shapes=sizes)
            graph_module = program.module(check_guards=False)
            # A suffix that writes into a cached tensor would change it for the next model.
            if any(map(_is_in_place, graph_module.graph.nodes)):
                graph_module = program.run_decompositions({}).module(check_guards=False)
        return _cut(graph_module, names)
    except Exception as error:  # torch.export raises many kinds of errors; the full forward pass always works
        reason = str(error).split("\n")[0]
        log.info("Scoring with full forward passes: the network cannot be split (%s: %s)", type(error).__name__, reason)
        return WholeNetwork(model)


def takes_more(model: nn.Module) -> bool:
    """Return whether a network needs further arguments besides the inputs, such as the timesteps of noisy images."""
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in positional and one.default is one.empty for one in parameters) > 1


def _is_in_place(node: fx.Node) -> bool:
    """Return whether an operation changes one of its arguments in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _cut(whole: fx.GraphModule, names: tuple[str, ...]) -> SplitNetwork:
    """Copy each node into the suffix if its result depends on a generated parameter, and into the prefix otherwise."""
    nodes = list(whole.graph.nodes)
    reached = {node for node in nodes if node.op == "get_attr" and node.target in names}
    if {node.target for node in reached} != set(names):
        raise ValueError("a generated parameter is missing from the traced graph")
    for node in nodes:  # nodes are in execution order, so one pass is enough
        if node.op != "output" and reached.intersection(node.all_input_nodes):
            reached.add(node)

    suffix_nodes = [node for node in nodes if node in reached and node.op != "get_attr"]
    outside = {source: None for node in suffix_nodes for source in node.all_input_nodes if source not in reached}
    constants = [node for node in outside if node.op == "get_attr"]  # frozen weights become part of the suffix
    crossing = [node for node in outside if node.op != "get_attr"]

    prefix_graph = fx.Graph()
    prefix_copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node not in reached and node.op != "output":
            prefix_copies[node] = prefix_graph.node_copy(node, prefix_copies.__getitem__)
    prefix_graph.output(tuple(prefix_copies[node] for node in crossing))
    prefix_graph.eliminate_dead_code()

    suffix_graph, suffix_copies = fx.Graph(), {}
    for node in crossing:
        suffix_copies[node] = suffix_graph.placeholder(node.name)
    by_name: dict[str, fx.Node] = {}
    for name in names:
        by_name[name] = suffix_graph.placeholder("generated_" + name.replace(".", "_"))
    suffix_copies |= {node: by_name[node.target] for node in reached if node.op == "get_attr"}
    suffix_copies |= {node: suffix_graph.node_copy(node) for node in constants}
    for node in suffix_nodes:
        suffix_copies[node] = suffix_graph.node_copy(node, suffix_copies.__getitem__)
    (output,) = (node for node in nodes if node.op == "output")
    (result,) = output.all_input_nodes
    suffix_graph.output(suffix_copies[result])

    # Matrix products with one matrix per model become one batched product, which is faster. Convolutions with one
    # kernel per model become a grouped convolution, which took 1.5 to 4 times as long on a CPU. Products with frozen
    # weights do not get faster with more rows.
    frozen = any(node.op == "get_attr" and node not in reached for node in nodes)
    convolves = any("conv" in str(node.target) for node in suffix_nodes)
    return SplitNetwork(
        fx.GraphModule(whole, prefix_graph), fx.GraphModule(whole, suffix_graph), names, not frozen and not convolves
    )
