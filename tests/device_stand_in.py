"""A stand-in for a GPU: CPU tensors that claim to be on another device, and counts of copies and waits."""

from collections import Counter
from contextlib import contextmanager

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from core.runtime.trainer import make_trainer

DEVICE = torch.device("meta")  # all of torch accepts this device, and the project does not use it otherwise
READS = {  # operations that make the host wait for the device
    "_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "bincount",
    "repeat_interleave", "_unique", "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip


class OnDevice(torch.Tensor):
    """A tensor that claims to be on DEVICE; `held` is the CPU tensor with its numbers."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE, requires_grad=held.requires_grad
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self, **_):
        return f"OnDevice({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} was called outside of stand_in()")


class StandIn(TorchDispatchMode):
    """A mode that runs every operation on the CPU, and counts in `crossings` the copies and waits of a GPU."""

    def __init__(self):
        super().__init__()
        self.crossings = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # compound operations such as `to` arrive here unsplit in inference mode
                return func.decompose(*args, **kwargs)
        flat = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [leaf for leaf in flat if isinstance(leaf, OnDevice)]
        name = func._schema.name.removeprefix("aten::")
        asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if there and name in READS:
            self.crossings[f"read by {name}"] += 1
        if there and name in ("index", "index_put_") and any(leaf.dtype == torch.bool for leaf in flat[1:]):
            self.crossings["read by a boolean index"] += 1
        if there and name != "copy_" and any(leaf.dim() and not isinstance(leaf, OnDevice) for leaf in flat):
            self.crossings[f"to the device inside {name}"] += 1
        if name == "copy_" and isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
            self.crossings[
                "to the device by copy_" if isinstance(args[0], OnDevice) else "from the device by copy_"
            ] += 1
        if name == "_to_copy" and asked is not None and (asked == DEVICE) != bool(there):
            self.crossings["to the device" if asked == DEVICE else "from the device"] += 1
        if asked == DEVICE:
            kwargs["device"] = torch.device("cpu")
        held = lambda leaf: leaf.held if isinstance(leaf, OnDevice) else leaf  # noqa: E731
        found = func(*tree_map(held, args), **tree_map(held, kwargs))
        if func._schema.is_mutable and there:  # an in-place operation returns the tensor that it wrote to
            return args[0] if isinstance(found, torch.Tensor) else found
        on_device = asked == DEVICE or (bool(there) and asked is None)
        return tree_map(lambda leaf: OnDevice(leaf) if on_device and isinstance(leaf, torch.Tensor) else leaf, found)


class Constructors(TorchFunctionMode):
    """A mode that builds torch.tensor(…, device=DEVICE) on the CPU first.

    `StandIn` sees this call only after the numbers of the tensor are lost.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if (
            func in (torch.tensor, torch.as_tensor)
            and kwargs.get("device") is not None
            and torch.device(kwargs["device"]) == DEVICE
        ):
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def stand_in():
    """Make DEVICE usable inside the block, and yield a counter {kind of copy or wait: times}."""
    with Constructors(), StandIn() as mode:
        yield mode.crossings


class StandInAccelerator(CPUAccelerator):
    """Lightning's CPU accelerator, which also accepts DEVICE."""

    def setup_device(self, device):
        pass


def stand_in_trainer(**options):
    """Return the project's Trainer on DEVICE."""
    return make_trainer(strategy=SingleDeviceStrategy(device=DEVICE, accelerator=StandInAccelerator()), **options)
