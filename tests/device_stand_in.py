"""A stand-in for a GPU: tensors on the CPU that say that they are elsewhere, and a count of what crosses over."""

from collections import Counter
from contextlib import contextmanager

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from core.runtime.trainer import make_trainer

DEVICE = torch.device("meta")  # torch knows it everywhere, and nothing of the project uses it
READS = {  # operations after which the host waits for the device
    "_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "bincount",
    "repeat_interleave", "_unique", "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip


class OnDevice(torch.Tensor):
    """A tensor whose numbers are in `held`, on the CPU."""

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
        raise RuntimeError(f"{func} outside of StandIn")


class StandIn(TorchDispatchMode):
    """Runs everything on the CPU and counts, in `crossings`, what a GPU would wait for or copy."""

    def __init__(self):
        super().__init__()
        self.crossings = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode, `to` and the like arrive whole, not as the operations that they consist of
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
        if func._schema.is_mutable and there:  # the wrapper that was written to
            return args[0] if isinstance(found, torch.Tensor) else found
        on_device = asked == DEVICE or (bool(there) and asked is None)
        return tree_map(lambda leaf: OnDevice(leaf) if on_device and isinstance(leaf, torch.Tensor) else leaf, found)


class Constructors(TorchFunctionMode):
    """Lets torch.tensor(…, device=DEVICE) make its numbers on the CPU; below this level they would be gone."""

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
    """Make DEVICE usable inside the block and yield the counts of what crosses over."""
    with Constructors(), StandIn() as mode:
        yield mode.crossings


class StandInAccelerator(CPUAccelerator):
    """Lightning's CPU accelerator, without its refusal of other devices."""

    def setup_device(self, device):
        pass


def stand_in_trainer(**options):
    """Return the Trainer of the project on the stand-in device."""
    return make_trainer(strategy=SingleDeviceStrategy(device=DEVICE, accelerator=StandInAccelerator()), **options)
