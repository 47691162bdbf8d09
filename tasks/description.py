"""How a generated model is loaded without this project: Python that makes its network, and timm's description of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
from omegaconf import DictConfig
from torch import nn

from core.checkpoints.checkpoint_set import CheckpointSet
from tasks.data.datasets import load_images
from tasks.data.splits import DataOptions
from tasks.importing.adopt import is_imported
from tasks.networks.recipes import check_recipe, rebuild


@dataclass(frozen=True)
class Loading:
    """What a model card says of the network."""

    network: str  # its name
    code: str  # Python that leaves the network, with new weights, in `model`
    library: str  # "timm" or "pytorch"
    config: dict[str, Any] | None  # config.json in timm's layout; None where timm alone cannot make the network
    images: str  # what the network takes, in words
    dataset: str | None  # by name; None for images of the user's own


def loading(checkpoints: CheckpointSet, task: DictConfig) -> Loading:
    """For the network that the file records; builds it, but needs no images.

    Args:
        task: where to find the images of a file by an earlier version, which did not record their size.

    Raises:
        UserError: the recorded network cannot be built.
    """
    settings = checkpoints.settings["imported" if is_imported(checkpoints) else "task"]
    recipe, score_with, source = settings["model"], settings.get("score_with"), str(checkpoints.path)
    facts = checkpoints.provenance.get("facts") or load_images(DataOptions(**{**task.data, **settings["data"]})).facts
    dataset, normalization = (
        None if score_with else settings["data"]["dataset"],
        checkpoints.provenance.get("normalization"),
    )
    images = f"images ({facts['channels']}, {facts['image_size']}, {facts['image_size']})" + (
        f", normalized with mean {normalization['mean']} and std {normalization['std']}"
        if normalization
        else ", prepared as in training"
    )
    check_recipe(recipe, source)
    if score_with or ":" in recipe["name"]:
        module, _, name = (score_with or recipe["name"]).partition(":")
        made = f"model, _ = {name}()" if score_with else f"model = {call(name, recipe.get('options') or {})}"
        return Loading(recipe["name"], f"from {module} import {name}\n\n{made}", "pytorch", None, images, dataset)

    model, small_stem = rebuild(recipe, facts, checkpoints.network, source)
    if not timm.models.model_entrypoint(recipe["name"]).__module__.startswith("timm."):  # a network of this project
        arguments = {**facts, "small_stem": small_stem, "options": dict(recipe.get("options") or {})}
        code = f"from tasks.networks.build import build_classifier  # in the folder of p-diff\n\nmodel = {call('build_classifier', arguments, recipe['name'])}"
        return Loading(recipe["name"], code, "pytorch", None, images, dataset)
    code = f"import timm\n\nmodel = {call('timm.create_model', model.created_with, recipe['name'])}"
    if isinstance(getattr(model, "maxpool", None), nn.Identity):  # tasks.networks.build.shrink_stem was here
        code += f"\nmodel.conv1 = torch.nn.Conv2d({model.conv1.in_channels}, {model.conv1.out_channels}, kernel_size=3, padding=1, bias=False)"
        return Loading(recipe["name"], code + "\nmodel.maxpool = torch.nn.Identity()", "timm", None, images, dataset)
    return Loading(
        recipe["name"], code, "timm", hub_config(model, recipe["name"], facts, normalization), images, dataset
    )


def call(function: str, arguments: Mapping[str, Any], *first: Any) -> str:
    """A call in Python, from plain arguments."""
    return f"{function}({', '.join([*map(repr, first), *(f'{name}={value!r}' for name, value in arguments.items())])})"


def hub_config(
    model: nn.Module, name: str, facts: Mapping[str, int], normalization: Mapping[str, Any] | None
) -> dict[str, Any]:
    """config.json as timm reads it from a folder or from the Hub.

    `first_conv` is left out of `pretrained_cfg`: timm would convert that layer from three colors to `in_chans`.
    """
    size = [facts["channels"], facts["image_size"], facts["image_size"]]
    fixed = bool(
        model.pretrained_cfg.get("fixed_input_size")
    )  # timm then passes img_size, which only some networks take
    about = {
        "num_classes": facts["num_classes"],
        "input_size": size,
        "fixed_input_size": fixed,
        "crop_pct": 1.0,
        **(normalization or {}),
    }
    arguments = {key: value for key, value in model.created_with.items() if key != "num_classes"}
    return {
        "architecture": name,
        "num_classes": facts["num_classes"],
        "num_features": model.num_features,
        "pretrained_cfg": about,
        "model_args": arguments,
    }
