"""Shortcuts that save time in runs whose tests check numbers and not figures.

The `finished` run of `conftest.py` is made without them. A dozen other tests run both commands over the same frozen
network, and would spend most of their time on rendering figures and on tracing that network again.
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

REMEMBERED: dict[tuple[Any, ...], tuple[Any, str]] = {}  # arguments of the split: (its result, digest of its tensors)
RENDER = Figure.savefig


@cache
def blank(kind: str) -> bytes:
    """Return the bytes of an empty figure in this file format."""
    drawn = io.BytesIO()
    RENDER(Figure(figsize=(0.1, 0.1)), drawn, format=kind)
    return drawn.getvalue()


@contextmanager
def blank_figures() -> Iterator[None]:
    """Draw every figure without placing the labels of its points, and save an empty one in its place."""

    def save(_: Figure, file: Any, *, format: str, **__: Any) -> None:
        file.write_bytes(blank(format))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Figure, "savefig", save)
        monkeypatch.setattr("core.report.behavior_figures.label_points", lambda *_, **__: None)
        yield


def hash_tensors(*modules: nn.Module) -> str:
    """Return a hash of all tensors, including which of them require gradients."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
            found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def remembering(split: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `split_network` that traces a network once per combination of weights, structure and shape of images."""

    def remembered(model: nn.Module, names: tuple[str, ...], images_BCSS: Tensor) -> Any:
        key = (repr(model), hash_tensors(model), model.training, names, images_BCSS.shape, images_BCSS.dtype)
        if key not in REMEMBERED:
            found = split(model, names, images_BCSS)
            if not hasattr(
                found, "prefix"
            ):  # a network without a frozen prefix is not traced, so there is nothing to save
                return found
            REMEMBERED[key] = found, hash_tensors(found.prefix, found.suffix)
        found, tensors = REMEMBERED[key]
        assert hash_tensors(found.prefix, found.suffix) == tensors, "a run changed the network that it scored"
        return found

    return remembered


@contextmanager
def remembered_splits() -> Iterator[None]:
    """Trace each network once in this process, for every caller of `split_network`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, module in list(sys.modules.items()):
            if name.startswith("tasks.") and getattr(module, "split_network", None) is split_network:
                monkeypatch.setattr(module, "split_network", remembering(split_network))
        assert tasks.scoring.scorer.split_network is not split_network
        assert tasks.training.finetuning.split_network is not split_network
        yield
