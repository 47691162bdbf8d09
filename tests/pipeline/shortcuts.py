"""Shortcuts for runs that repeat what the finished run of `conftest.py` has done in full.

A dozen tests run both commands over one frozen network and look at numbers, not at figures. Rendering figures and
tracing that network again and again would take most of their time.
"""

import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from matplotlib.figure import Figure
from torch import Tensor, nn

import tasks.scoring.scorer
import tasks.training.finetuning
from tasks.scoring.frozen_prefix import split_network

REMEMBERED: dict[tuple[Any, ...], tuple[Any, str]] = {}  # what was asked for: (the split, digest of its tensors)
RENDER = Figure.savefig


@cache
def blank(kind: str) -> bytes:
    """Return an empty figure as a file of this kind."""
    drawn = io.BytesIO()
    RENDER(Figure(figsize=(0.1, 0.1)), drawn, format=kind)
    return drawn.getvalue()


@contextmanager
def blank_figures() -> Iterator[None]:
    """Draw every figure, but save a blank one in its place."""

    def save(_: Figure, file: Any, *, format: str, **__: Any) -> None:
        file.write_bytes(blank(format))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Figure, "savefig", save)
        yield


def digest(*modules: nn.Module) -> str:
    """Return a hash of all tensors and of which of them ask for gradients."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
            found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def remembering(split: Callable[..., Any]) -> Callable[..., Any]:
    """Return `split_network` that traces a network once: the same weights, structure and chunk give the same split."""

    def remembered(model: nn.Module, names: tuple[str, ...], images_BCSS: Tensor) -> Any:
        key = (repr(model), digest(model), model.training, names, images_BCSS.shape, images_BCSS.dtype)
        if key not in REMEMBERED:
            found = split(model, names, images_BCSS)
            if not hasattr(found, "prefix"):  # a network that stays whole is not worth remembering
                return found
            REMEMBERED[key] = found, digest(found.prefix, found.suffix)
        found, tensors = REMEMBERED[key]
        assert digest(found.prefix, found.suffix) == tensors, "a run changed the network that it scored with"
        return found

    return remembered


@contextmanager
def remembered_splits() -> Iterator[None]:
    """Trace each network once in this process, wherever `split_network` is called."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, module in list(sys.modules.items()):
            if name.startswith("tasks.") and getattr(module, "split_network", None) is split_network:
                monkeypatch.setattr(module, "split_network", remembering(split_network))
        assert tasks.scoring.scorer.split_network is not split_network
        assert tasks.training.finetuning.split_network is not split_network
        yield
