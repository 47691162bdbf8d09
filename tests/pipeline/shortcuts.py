"""Shortcuts that save time in runs whose tests check numbers and not figures.

The `finished` run of `conftest.py` is made without them. A dozen other tests run both commands over the same frozen
network and the same images. They would spend most of their time on drawing figures, on tracing that network again and
on distorting the digits again.
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
from sklearn.datasets import load_digits
from torch import Tensor, nn

import tasks.data.digits
import tasks.scoring.scorer
import tasks.training.finetuning
from core.report import gallery
from core.report.run_files import RunFiles
from tasks.scoring.frozen_prefix import split_network

NUM_DIGITS, NUM_SCORED = 480, 60  # the digits of `few_digits`, and the size of each set that models are scored on
DISTORTED: dict[tuple[Any, ...], Tensor] = {}  # arguments of the distortion: the distorted images
REMEMBERED: dict[tuple[Any, ...], tuple[Any, str]] = {}  # arguments of the split: (its result, digest of its tensors)
RENDER = Figure.savefig


@cache
def blank(kind: str) -> bytes:
    """Return the bytes of an empty figure in this file format."""
    drawn = io.BytesIO()
    RENDER(Figure(figsize=(0.1, 0.1)), drawn, format=kind)
    return drawn.getvalue()


@contextmanager
def take_shortcuts() -> Iterator[None]:
    """Take all shortcuts below but `few_digits`, which would change the images."""
    with blank_figures(), remembered_splits(), remembered_distortions():
        yield


@contextmanager
def blank_figures() -> Iterator[None]:
    """Choose the figures that the files of a run allow, and save an empty figure in the place of each."""
    plan_figures = gallery.plan_figures

    def plan_blank(run: RunFiles) -> Iterator[gallery.PlannedFigure]:
        for name, _ in plan_figures(run):
            yield name, Figure

    def save(_: Figure, file: Any, *, format: str, **__: Any) -> None:
        file.write_bytes(blank(format))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(gallery, "plan_figures", plan_blank)
        monkeypatch.setattr(Figure, "savefig", save)
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

    def remembered(model: nn.Module, names: tuple[str, ...], images_BCSS: Any, *, any_size: bool = False) -> Any:
        if isinstance(images_BCSS, list):  # networks for lists are not traced
            return split(model, names, images_BCSS, any_size=any_size)
        key = (repr(model), hash_tensors(model), model.training, names, images_BCSS.shape, images_BCSS.dtype, any_size)
        if key not in REMEMBERED:
            found = split(model, names, images_BCSS, any_size=any_size)
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


@contextmanager
def remembered_distortions() -> Iterator[None]:
    """Distort the same digits with the same seed once in this process."""
    distort = tasks.data.digits.distort

    def remembered(images_N1SS: Tensor, copies: int, *, seed: int) -> Tensor:
        key = hashlib.sha256(images_N1SS.numpy().tobytes()).hexdigest(), tuple(images_N1SS.shape), copies, seed
        if key not in DISTORTED:
            DISTORTED[key] = distort(images_N1SS, copies, seed=seed)
        return DISTORTED[key].clone()

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(tasks.data.digits, "distort", remembered)
        yield


@contextmanager
def few_digits() -> Iterator[None]:
    """Train on 360 digits and score on sets of 60, in one copy, for tests that compare no run with an earlier one.

    The sets have one size, so that a network is traced once for all of them. The baselines that need many gradients
    use fewer images and steps, too.
    """
    digits = load_digits()
    digits.images, digits.target = digits.images[:NUM_DIGITS], digits.target[:NUM_DIGITS]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("tasks.data.digits.load_digits", lambda: digits)
        monkeypatch.setattr("tasks.data.digits.COPIES", 1)
        monkeypatch.setattr("tasks.data.digits.NUM_HELD_OUT", NUM_SCORED + NUM_SCORED // 2)
        monkeypatch.setattr("tasks.data.digits.NUM_FIRST_VAL", NUM_SCORED // 2)
        monkeypatch.setattr("tasks.data.digits.NUM_MORE_VAL", NUM_SCORED // 2)
        monkeypatch.setattr("tasks.data.digits.NUM_OOD", NUM_SCORED)
        monkeypatch.setattr("tasks.training.laplace.MOST_IMAGES", 20)
        monkeypatch.setattr("tasks.training.finetuning.MOMENT_STEPS", 3)
        yield
