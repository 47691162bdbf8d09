"""The description of a network for a model card, so that generated models can be loaded without this project."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
from torch import nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.low_rank import remove_updates
from tasks.data.datasets import load_images
from tasks.data.splits import DataOptions
from tasks.importing.adopt import is_imported
from tasks.networks.build import find_builder, find_family
from tasks.networks.recipes import check_recipe, get_shaping_options, rebuild
from tasks.objectives.classification import Classification
from tasks.objectives.detection import Detection
from tasks.objectives.generation import Generation
from tasks.objectives.objective import Objective
from tasks.objectives.segmentation import Segmentation

PIPELINES: dict[type[Objective], str] = {  # the Hub's names
    Classification: "image-classification",
    Segmentation: "image-segmentation",
    Detection: "object-detection",
    Generation: "unconditional-image-generation",
}


@dataclass(frozen=True)
class NetworkDescription:
    """The entries of a model card that concern the network."""

    network: str  # the network's name
    code: str  # Python code that assigns the network, with new weights, to `model`
    library: str  # "timm" or "pytorch"
    config: dict[str, Any] | None  # config.json in timm's layout; None if timm alone cannot build the network
    images: str  # the shape and normalization of the images, in words
    dataset: str | None  # the dataset's name; None for the user's own images
    pipeline: str | None  # the Hub's name of what the network does; None for the user's own network


def describe_network(checkpoints: CheckpointSet, data: DataOptions) -> NetworkDescription:
    """Return the description of the network that a checkpoints file records.

    The network is built, but its images are not opened unless an earlier version wrote the file without their size.

    Args:
        checkpoints: The checkpoints file.
        data: The options that say where the images are, if they are needed.

    Raises:
        UserError: The recorded network cannot be built.
    """
    imported, source = is_imported(checkpoints), str(checkpoints.path)
    settings = checkpoints.settings["imported" if imported else "task"]
    recipe, score_with = settings["model"], settings.get("score_with")
    facts = checkpoints.provenance.get("facts")
    if facts is None:
        facts = load_images(replace(data, **settings["data"])).facts
    normalization = checkpoints.provenance.get("normalization")
    described = NetworkDescription(
        network=score_with if score_with and not imported else recipe["name"],  # an import knows the name of the class
        code="",
        library="pytorch",
        config=None,
        images=describe_images(facts, normalization),
        dataset=None if score_with else settings["data"]["dataset"],
        pipeline=None if score_with or ":" in recipe["name"] else PIPELINES[find_family(recipe["name"])],
    )
    check_recipe(recipe, source)
    if score_with or ":" in recipe["name"]:
        return replace(described, code=write_users_code(recipe, score_with))
    state = remove_updates(checkpoints.network, checkpoints.subset.updates)
    model, small_stem = rebuild(recipe, facts, state=state, source=source)
    if not is_of_timm(recipe["name"]):
        return replace(described, code=write_own_network(recipe, facts, small_stem=small_stem))
    code = f"import timm\n\nmodel = {write_call('timm.create_model', recipe['name'], **get_arguments(model))}"
    stem = getattr(model, "conv1", None)
    if isinstance(stem, nn.Conv2d) and isinstance(getattr(model, "maxpool", None), nn.Identity):  # see shrink_stem
        return replace(described, code=code + write_small_stem(stem), library="timm")
    config = make_hub_config(model, recipe["name"], facts=facts, normalization=normalization)
    return replace(described, code=code, library="timm", config=config)


def describe_images(facts: Mapping[str, int], normalization: Mapping[str, Any] | None) -> str:
    """Return the shape and normalization of the network's inputs, in words."""
    if not facts:
        return "inputs as the user's own function returns them"
    images = f"images ({facts['channels']}, {facts['image_size']}, {facts['image_size']})"
    if normalization is None:
        return f"{images}, prepared as in training"
    return f"{images}, normalized with mean {normalization['mean']} and std {normalization['std']}"


def write_users_code(recipe: Mapping[str, Any], score_with: str | None) -> str:
    """Return Python code that builds a network with the user's own code."""
    module, _, name = (score_with or recipe["name"]).partition(":")
    call = f"model, *_ = {name}()" if score_with else f"model = {write_call(name, **(recipe.get('options') or {}))}"
    return f"from {module} import {name}\n\n{call}"


def is_of_timm(name: str) -> bool:
    """Return whether timm has the network, so that it can be built without this project."""
    return timm.is_model(name) and timm.models.model_entrypoint(name).__module__.startswith("timm.")


def write_own_network(recipe: Mapping[str, Any], facts: Mapping[str, int], *, small_stem: bool) -> str:
    """Return Python code that builds a network of this project, with torchvision alone if it has the network."""
    builder, options = find_builder(recipe["name"]), get_shaping_options(recipe)
    if recipe["name"] == "fcn_resnet50":
        arguments = {"num_classes": facts["num_classes"], "aux_loss": True, **options}
        call = write_call("fcn_resnet50", weights=None, weights_backbone=None, **arguments)
        comment = '  # logits: model(images)["out"]'
        return f"from torchvision.models.segmentation import fcn_resnet50\n\nmodel = {call}{comment}"
    given = {**facts, "small_stem": small_stem}
    named = {name: given[name] for name in inspect.signature(builder).parameters if name in given}
    call = write_call(builder.__name__, recipe["name"], **named, options=options)
    return f"from {builder.__module__} import {builder.__name__}  # in the folder of p-diff\n\nmodel = {call}"


def write_small_stem(convolution: nn.Conv2d) -> str:
    """Return Python code that gives a ResNet of timm the stem of `tasks.networks.build.shrink_stem`."""
    channels = f"{convolution.in_channels}, {convolution.out_channels}"
    return (
        f"\nmodel.conv1 = torch.nn.Conv2d({channels}, kernel_size=3, padding=1, bias=False)"
        "\nmodel.maxpool = torch.nn.Identity()"
    )


def write_call(function: str, *positional: Any, **named: Any) -> str:
    """Return Python code that calls a function with plain arguments."""
    arguments = [repr(value) for value in positional] + [f"{name}={value!r}" for name, value in named.items()]
    return f"{function}({', '.join(arguments)})"


def make_hub_config(
    model: nn.Module, name: str, *, facts: Mapping[str, int], normalization: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the content of config.json as timm reads it from a folder or from the Hub.

    `pretrained_cfg` has no `first_conv`, because timm would convert that layer from three colors to `in_chans`.
    """
    published: Any = model.pretrained_cfg
    arguments = {key: value for key, value in get_arguments(model).items() if key != "num_classes"}
    return {
        "architecture": name,
        "num_classes": facts["num_classes"],
        "num_features": model.num_features,
        "pretrained_cfg": {
            "num_classes": facts["num_classes"],
            "input_size": [facts["channels"], facts["image_size"], facts["image_size"]],
            # If true, timm passes img_size to the network, which only some networks accept.
            "fixed_input_size": bool(published.get("fixed_input_size")),
            "crop_pct": 1.0,
            **(normalization or {}),
        },
        "model_args": arguments,
    }


def get_arguments(model: nn.Module) -> Mapping[str, Any]:
    """Return the arguments of `timm.create_model` that a network was built with."""
    created_with: Any = model.created_with
    return created_with
