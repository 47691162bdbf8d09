"""Low-rank adapters (LoRA, Hu et al. 2022, arXiv 2106.09685) in a network, built with the package peft."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from core.checkpoints.low_rank import LowRankUpdate
from core.checkpoints.subset import ParameterSubset, resolve_subset
from core.runtime.errors import UserError

LORA = "lora"  # the value of task.param.subset that stands for all adapters
TARGETS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # the linear layers in a block of timm's ViTs
ADAPTER = "default"  # peft's name of the only adapter
HOW_TO_INSTALL = "Adapters (task.model.lora) need the package peft. Install it with: pip install peft"


@dataclass(frozen=True)
class LoraSpec:
    """The `task.model.lora` section: adapters that add (alpha / rank) · B A to the weights of some layers.

    Dropout is no setting, because frozen layers and adapters stay in eval mode while checkpoints are collected.
    """

    rank: int
    alpha: float
    targets: Sequence[str]  # names of layers, or the last parts of their names

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> "LoraSpec | None":
        """Return the adapters that the section describes, with all defaults filled in; None without a rank.

        Raises:
            UserError: Another setting of the section is set without a rank.
        """
        given = {name: value for name, value in (config or {}).items() if value is not None}
        if not given:
            return None
        if "rank" not in given:
            name, value = next(iter(given.items()))
            raise UserError(
                f"task.model.lora.{name}={value} has no effect without adapters. Set task.model.lora.rank=4"
            )
        targets = given.get("targets", TARGETS)
        return cls(
            rank=given["rank"],
            alpha=given.get("alpha", given["rank"]),
            targets=[targets] if isinstance(targets, str) else list(targets),
        )


def add_adapters(model: nn.Module, spec: LoraSpec) -> nn.Module:
    """Add adapters to `model` in place, and return it in training mode.

    B is 0, so the network computes what it did before. The adapters do not require gradients, so the training of the
    network leaves them as they are.

    Args:
        model: The network.
        spec: The adapters.

    Raises:
        UserError: peft is not installed, or a target matches no layer that can have an adapter.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(HOW_TO_INSTALL) from error
    check_targets(model, spec.targets)
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    settings: dict[str, Any] = {"r": spec.rank, "lora_alpha": spec.alpha, "target_modules": list(spec.targets)}
    inject_adapter_in_model(LoraConfig(**settings), model, ADAPTER)
    model.requires_grad_(False)
    for parameter, requires_grad in trained:
        parameter.requires_grad_(requires_grad)
    return model.train()


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Check that each target matches a layer, and that all matched layers are linear or convolutions of one group.

    Raises:
        UserError: A target matches no layer, or another kind of layer.
    """
    layers = dict(model.named_modules())
    for target in targets:
        matched = [name for name in layers if f".{name}".endswith(f".{target}")]
        if not matched or not all(can_adapt(layers[name]) for name in matched):
            fitting = sorted({".".join(name.split(".")[-2:]) for name, layer in layers.items() if can_adapt(layer)})
            kind = f"which is a {type(layers[matched[0]]).__name__}" if matched else "which the network does not have"
            raise UserError(
                f"task.model.lora.targets={list(targets)} names {target}, {kind}. Set task.model.lora.targets to a "
                f"list of layers that can have adapters: {', '.join(fitting)}"
            )


def can_adapt(layer: nn.Module) -> bool:
    """Return whether a layer has a weight to which a product of two matrices can be added."""
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return False  # torch's MultiheadAttention reads the weight of this layer without calling the layer
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def list_updates(model: nn.Module) -> tuple[LowRankUpdate, ...]:
    """Return the low-rank updates of a network that `add_adapters` gave adapters, in the order of its layers."""
    return tuple(
        LowRankUpdate(
            weight=f"{name}.weight",
            frozen=f"{name}.base_layer.weight",
            a=f"{name}.lora_A.{ADAPTER}.weight",
            b=f"{name}.lora_B.{ADAPTER}.weight",
            scale=float(layer.scaling[ADAPTER]),
        )
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")
    )


def choose_subset(configured: str | Sequence[str] | None, lora: LoraSpec | None) -> str | Sequence[str]:
    """Return the value of `task.param.subset`, where null stands for the adapters, or for "last_norms" without any.

    Raises:
        UserError: The network has adapters and the subset is another one, or the other way round.
    """
    if configured is None:
        return LORA if lora else "last_norms"
    if lora and configured != LORA:
        raise UserError(
            f"task.param.subset={configured} cannot be used with task.model.lora.rank={lora.rank}, because only the "
            "adapters are trained. Set task.param.subset=lora, or task.model.lora.rank=null"
        )
    if configured == LORA and not lora:
        raise UserError("task.param.subset=lora needs a network with adapters. Set task.model.lora.rank=4")
    return configured


def resolve_parameters(model: nn.Module, subset: str | Sequence[str], count: int = 2) -> ParameterSubset:
    """Return the subset that `task.param.subset` selects: all adapters, or what `resolve_subset` returns.

    Raises:
        UserError: `subset` is invalid for the network.
    """
    if subset != LORA:
        return resolve_subset(model, subset, count)
    updates = list_updates(model)
    names = {name for update in updates for name in (update.a, update.b)}
    return replace(ParameterSubset.from_model(model, names), updates=updates)
