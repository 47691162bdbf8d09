"""Calling the user's own code, named on the command line as package.module:name, never by a file."""

import importlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchvision.transforms import v2

from core.runtime.errors import UserError
from core.runtime.source_code import digest_file
from tasks.data.splits import SPLITS, ImagesWithoutClass, TaskData, gather_labeled_images, require_equal_shapes
from tasks.objectives.objective import Objective, add_model_axis


def find_user_code(path: str, option: str) -> Callable[..., Any]:
    """Return the callable at "package.module:name", without calling it.

    Args:
        path: The callable.
        option: The option that the user set to `path`, named in the error.

    Raises:
        UserError: The callable is not found, or its module fails; the error names the line where it fails.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise UserError(
            f"{option}={path} is invalid: expected package.module:name. Set for example {option}=my_code:network for "
            "the function network() in my_code.py"
        )
    if (folder := str(Path.cwd())) not in sys.path:  # so that modules are found as with `python -m`
        sys.path.append(folder)
    try:
        called = getattr(importlib.import_module(module_name), name, None)
        if not callable(called):
            raise UserError(
                f"{option}={path}: the module {module_name} has no function or class {name}. Check the name, or define "
                f"{name} in {module_name}"
            )
        return called
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"{option}={path}: {error}. Run the command in the folder that holds this module ({folder} does not), or "
            "install the module"
        ) from error
    except Exception as error:  # the user's own code may raise anything
        raise describe_failure(error, path, option) from error


def call_user_code(path: str, option: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Return the result of the callable at "package.module:name".

    Args:
        path: The callable.
        option: The option that the user set to `path`, named in the error.
        arguments: All arguments of the callable.

    Raises:
        UserError: The callable is not found, or it fails; the error names the line where it fails.
    """
    called = find_user_code(path, option)
    try:
        return called(**(arguments or {}))
    except UserError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise describe_failure(error, path, option) from error


def digest_user_code(path: str) -> dict[str, str]:
    """Return the digest of the file that holds the callable at "package.module:name", by the name of the module.

    The module must have been imported. A module without a file has no digest.
    """
    module_name = path.partition(":")[0]
    file = getattr(sys.modules[module_name], "__file__", None)
    return {f"the module {module_name}": digest_file(Path(file))} if file else {}


def describe_failure(error: Exception, path: str, option: str) -> UserError:
    """Return the error for user code that raised another one, with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    return UserError(f"{option}={path} failed with {type(error).__name__}: {error} ({place})")


def call_user_task(path: str) -> tuple[nn.Module, TaskData]:
    """Return the network and the data from the user's function that `task.score_with` names.

    The function returns (model, {"train": dataset, "val": dataset, "test": dataset}) for a classification of images,
    whose dictionary of splits may also hold "ood", a dictionary of datasets of images that belong to no class. For any
    other task it returns (model, splits, objective).

    Raises:
        UserError: The function returns something else; the error names the part that is wrong.
    """
    source = f"task.score_with={path}"
    returned = call_user_code(path, "task.score_with")
    if not (isinstance(returned, tuple) and fits_types(returned, (nn.Module, Mapping, Objective)[: len(returned)], 2)):
        raise UserError(
            f"{source} returned {describe_value(returned)}, but the function must return "
            '(model, {"train": dataset, "val": dataset, "test": dataset}) with a torch.nn.Module as model. '
            "A task other than the classification of images needs a tasks.objectives.objective.Objective as third value"
        )
    model, splits, *objective = returned
    if missing := [name for name in SPLITS if name not in splits]:
        raise UserError(
            f"{source}: the split {missing[0]} is missing. Return a dataset for each of {', '.join(SPLITS)}: train is "
            "for the fine-tuned baseline, val for choosing models, and test for the report"
        )
    if objective:
        return model, gather_user_data(model, splits, objective[0], source)
    for name in SPLITS:
        check_split(splits[name], f"{source}: the split {name}")
    image_CSS, _ = splits["val"][0]
    return model, gather_labeled_images(
        **{name: splits[name] for name in SPLITS},
        num_classes=count_classes(model, image_CSS, source),
        channels=image_CSS.shape[0],
        image_size=image_CSS.shape[-1],
        ood=read_ood(splits, source),
    )


def fits_types(values: Sequence[Any], types: Sequence[type], least: int) -> bool:
    """Return whether there are at least `least` values and each one has its type."""
    return least <= len(values) == len(types) and all(map(isinstance, values, types))


def gather_user_data(model: nn.Module, splits: Mapping[str, Any], objective: Objective, source: str) -> TaskData:
    """Return the data of a task with the user's own objective, after one batch of validation items has been tried.

    Args:
        model: The network.
        splits: The datasets by split.
        objective: The objective.
        source: The option, named in the error.

    Raises:
        UserError: A split is no dataset of pairs, or network, items and objective do not fit each other.
    """
    for name in SPLITS:
        try:
            fits = len(splits[name]) > 0 and len(splits[name][0]) == 2
        except Exception as error:  # the user's own dataset may raise anything
            raise UserError(
                f"{source}: the split {name} cannot give its first item ({type(error).__name__}: {error}). Return a "
                "dataset of pairs (input, target)"
            ) from error
        if not fits:
            raise UserError(f"{source}: the items of the split {name} are no pairs (input, target). Return pairs")
    try:
        inputs, targets = default_collate([splits["val"][index] for index in range(min(2, len(splits["val"])))])
        with torch.no_grad():
            objective.compute_loss(model.cpu().eval(), inputs, targets)
            counter = objective.count_scores(1, torch.device("cpu"))
            counter.add([(slice(0, 1), add_model_axis(objective.predict(model, inputs)))], targets)
            scores = counter.finish()
        metric = scores.metric
    except Exception as error:  # the user's own code may raise anything
        raise UserError(
            f"{source}: the objective cannot score the first items of val ({type(error).__name__}: {error}). Return a "
            "network, items and an objective that fit each other"
        ) from error
    if metric != objective.metric:
        raise UserError(
            f"{source}: the scores have the metric {metric.name}, but the objective has {objective.metric.name}. "
            "Give Scores(…, metric=self.metric)"
        )
    return TaskData(splits["train"], splits["val"], splits["test"], objective)


def read_ood(splits: Mapping[str, Any], source: str) -> dict[str, ImagesWithoutClass]:
    """Return the datasets of images without a class that the user's function returns as "ood", by name.

    Args:
        splits: The dictionary that the function returns.
        source: The option, named in the error.

    Raises:
        UserError: "ood" is no dictionary of datasets whose images have the shape of the validation images, or a set has
            the name of a split.
    """
    ood = splits.get("ood", {})
    if not isinstance(ood, Mapping):
        raise UserError(f'{source}: "ood" is {describe_value(ood)}. Return a dictionary of datasets, by name')
    for name, images in ood.items():
        if name in SPLITS:
            raise UserError(f"{source}: the ood set {name} has the name of a split. Give it another name")
        check_split(images, f"{source}: the ood set {name}")
        require_equal_shapes(images, splits["val"], f"{source}: the ood set {name}")
    return {name: ImagesWithoutClass(images, range(len(images)), v2.Identity()) for name, images in ood.items()}


def describe_value(value: Any) -> str:
    """Return a value's type, with the types of its items if it is a tuple: "(Net, list)"."""
    if isinstance(value, tuple):
        return f"({', '.join(type(item).__name__ for item in value)})"
    return type(value).__name__


def check_split(split: Any, source: str) -> None:
    """Check that a split is a dataset of (image (C, H, W), integer label).

    Args:
        split: A value of the dictionary that the user's function returns.
        source: The option and the name of the split, named in the error.

    Raises:
        UserError: The split is not a dataset of this form.
    """
    expected = "Return a dataset of (image tensor (channels, height, width), integer label)"
    try:
        image_CSS, label = split[0]
        fits = len(split) > 0 and isinstance(image_CSS, Tensor) and image_CSS.dim() == 3 and int(label) == label
    except Exception as error:  # the user's own dataset may raise anything
        raise UserError(f"{source} cannot give its first item ({type(error).__name__}: {error}). {expected}") from error
    if not fits:
        shape = f" of shape {tuple(image_CSS.shape)}" if isinstance(image_CSS, Tensor) else ""
        raise UserError(
            f"{source} has the first item ({type(image_CSS).__name__}{shape}, {type(label).__name__}). {expected}"
        )


def count_classes(model: nn.Module, image_CSS: Tensor, source: str) -> int:
    """Return the number of logits that the user's network computes for an image.

    Args:
        model: The network.
        image_CSS: The first validation image.
        source: The option, named in the error.

    Raises:
        UserError: The network does not take the image, or does not return logits.
    """
    try:
        with torch.no_grad():
            logits_1C = model.cpu().eval()(image_CSS[None].clone())  # a network may write into its input
    except Exception as error:  # the user's own network may raise anything
        raise UserError(
            f"{source}: the network cannot take the first image of val, of shape {tuple(image_CSS.shape)} "
            f"({type(error).__name__}: {error}). Return a network and images that fit each other"
        ) from error
    if not isinstance(logits_1C, Tensor) or logits_1C.dim() != 2:
        shape = f" of shape {tuple(logits_1C.shape)}" if isinstance(logits_1C, Tensor) else ""
        raise UserError(
            f"{source}: the network returned {type(logits_1C).__name__}{shape} for one image, but it must return a "
            "tensor of logits (images, classes). Return a network whose forward() does so"
        )
    return logits_1C.shape[1]
