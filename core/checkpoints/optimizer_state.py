"""The state of an optimizer by the names of its parameters, and its form in a safetensors file."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

OptimizerState = Mapping[str, Mapping[str, Tensor]]  # parameter -> key of its state ("exp_avg", "step", …) -> value
PREFIX = "optimizer/"


def copy_optimizer_state(
    optimizer: Optimizer, parameters: Iterable[tuple[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Return a copy of the state of each named parameter that the optimizer trains, on the CPU.

    Numbers become tensors without axes. Parameters without a state, as with plain SGD, are left out.
    """
    copied = {}
    for name, parameter in parameters:
        state = optimizer.state.get(parameter, {})
        values = {
            key: torch.as_tensor(value) for key, value in state.items() if isinstance(value, Tensor | int | float)
        }
        if values:
            copied[name] = {key: value.detach().cpu().clone() for key, value in values.items()}
    return copied


def flatten_state(state: OptimizerState | None) -> dict[str, Tensor]:
    """Return the state as tensors named "optimizer/<parameter>/<key>"."""
    return {f"{PREFIX}{name}/{key}": value for name, values in (state or {}).items() for key, value in values.items()}


def unflatten_state(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]] | None:
    """Return the state that `flatten_state` wrote among other tensors; None if there is none."""
    state: dict[str, dict[str, Tensor]] = {}
    for label, value in tensors.items():
        if label.startswith(PREFIX):
            name, _, key = label.removeprefix(PREFIX).rpartition("/")
            state.setdefault(name, {})[key] = value
    return state or None
