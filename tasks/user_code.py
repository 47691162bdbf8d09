"""Code of the user's own, named on the command line as package.module:name. A file never decides what is imported."""

import importlib
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.runtime.errors import UserError
from tasks.data.splits import SPLITS, ImageData


def call_user_code(path: str, option: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Return what the callable at "package.module:name" returns.

    Args:
        path: of the callable.
        option: where the user gave the path, for the error sentence.
        arguments: all that the callable is given.

    Raises:
        UserError: there is no such callable, or it fails; the line where it does is named.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise UserError(
            f"{option}={path}: expected package.module:name, for example my_code:network for network() in my_code.py"
        )
    if (here := str(Path.cwd())) not in sys.path:  # as under `python -m`, wherever the entry point lies
        sys.path.append(here)
    try:
        called = getattr(importlib.import_module(module_name), name, None)
        if not callable(called):
            raise UserError(f"{option}={path}: {module_name} holds nothing callable that is named {name}")
        return called(**(arguments or {}))
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"{option}={path}: {error}; run the command in the folder that holds it, {here} does not"
        ) from error
    except Exception as error:  # the user's own code may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{option}={path} failed with {type(error).__name__}: {error} "
            f"({Path(frame.filename).name}, line {frame.lineno})"
        ) from error


def call_user_task(path: str) -> tuple[nn.Module, ImageData]:
    """Return the network and the images that `task.score_with` names.

    Its function returns (model, {"train": …, "val": …, "test": …}).

    Raises:
        UserError: it returns something else; what is missing is named.
    """
    option = f"task.score_with={path}"
    made = call_user_code(path, "task.score_with")
    if (
        not isinstance(made, tuple)
        or len(made) != 2
        or not isinstance(made[0], nn.Module)
        or not isinstance(made[1], Mapping)
    ):
        raise UserError(
            f'{option}: expected it to return (model, {{"train": dataset, "val": dataset, "test": dataset}}), '
            f"it returned {type(made).__name__}"
        )
    model, splits = made
    if missing := [name for name in SPLITS if name not in splits]:
        raise UserError(
            f"{option}: the split {missing[0]} is missing; train serves the fine-tuned baseline, val chooses, "
            f"test is reported: return all of {', '.join(SPLITS)}"
        )
    for name in SPLITS:
        check_split(splits[name], f"{option}: the split {name}")
    image_CSS, _ = splits["val"][0]
    try:
        with torch.no_grad():
            logits_1C = model.cpu().eval()(image_CSS[None].clone())  # a network may write into its input
    except Exception as error:  # a network may refuse images in any way
        raise UserError(
            f"{option}: the network cannot take an image {tuple(image_CSS.shape)} of val "
            f"({type(error).__name__}: {error})"
        ) from error
    if not isinstance(logits_1C, Tensor) or logits_1C.dim() != 2:
        raise UserError(
            f"{option}: expected the network to return logits (images, classes), one row per image; "
            f"it returned {type(logits_1C).__name__}"
        )
    return model, ImageData(
        **{name: splits[name] for name in SPLITS},
        num_classes=logits_1C.shape[1],
        channels=image_CSS.shape[0],
        image_size=image_CSS.shape[-1],
    )


def check_split(split: Any, what: str) -> None:
    """Check that a split is a dataset of (image (C, H, W), integer label).

    Raises:
        UserError: it is not.
    """
    try:
        image_CSS, label = split[0]
        fits = len(split) > 0 and isinstance(image_CSS, Tensor) and image_CSS.dim() == 3 and int(label) == label
    except Exception as error:  # a dataset of the user's own may raise anything
        raise UserError(
            f"{what} cannot give its first item ({type(error).__name__}: {error}); "
            "expected (image tensor, integer label)"
        ) from error
    if not fits:
        raise UserError(f"{what}: expected items (image tensor (channels, height, width), integer label)")
