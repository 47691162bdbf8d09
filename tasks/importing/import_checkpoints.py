"""The import of a folder of state dicts, which another program saved, into a checkpoints file.

K checkpoints · D numbers in one flattened subset.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset, get_floating_entries
from core.checkpoints.vector_rows import VectorRows
from core.runtime.errors import UserError
from core.runtime.progress import Stages
from core.runtime.stage_progress import StageProgress
from tasks.importing.state_files import read_state, rename_entries
from tasks.networks.adapters import add_adapters, resolve_parameters
from tasks.networks.build import load_network
from tasks.networks.recipes import rebuild
from tasks.scoring.scorer import ScoringSpec
from tasks.specification import TaskSpec
from tasks.task import open_network_and_images
from tasks.training.collect_checkpoints import copy_state, measure_accuracy, record_images

log = logging.getLogger(__name__)
MAX_LISTED = 8  # the largest number of files named in one error


@dataclass
class Findings:
    """The subsets and the problems that were found while reading the files one by one."""

    vectors: list[Tensor] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)  # "epoch3.pth lacks fc.bias"
    differing: list[str] = field(default_factory=list)  # names of files that differ from the base outside the subset
    first_difference: str = ""  # "fc.bias of epoch3.pth"


def import_checkpoints(
    task: TaskSpec,
    files: Sequence[Path],
    *,
    base: Path | None = None,
    allow_different_rest: bool = False,
    read: Callable[[Path], Mapping[str, Tensor]] = read_state,
    scoring: ScoringSpec | None = None,
) -> CheckpointSet:
    """Read the subset of each file, in the given order, and score it on validation inside the network of `base`.

    Args:
        task: Only `model`, `param.subset`, `param.count` and `data` or `score_with` are used.
        files: The state dicts, or the folders of adapters.
        base: A full state dict, which provides all parameters outside the subset; None for the first full one of
            `files`.
        allow_different_rest: Accept files that differ from the base outside the subset.
        read: Reads one of `files`.
        scoring: How to score the checkpoints; None for the defaults.

    Raises:
        UserError: Files do not fit the network or each other. The error names these files with their differences.
    """
    start = time.perf_counter()
    lora = task.model.lora
    model, data = open_network_and_images(replace(task, model=replace(task.model, lora=None)))
    path, state = read_base(files, base, model)
    model, recipe = build_fitting_network(task, data.facts, model, state=state, path=path)
    in_float32 = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    load_network(model, {**model.state_dict(), **in_float32}, str(path))
    if lora:
        model, recipe["lora"] = add_adapters(model, lora), asdict(lora)
    subset = resolve_parameters(model, task.param.subset, task.param.count)
    stages = Stages(["read", "score"])
    with stages.stage("read", f"{len(files)} files") as progress:
        vectors_KD = gather_vectors(
            files,
            model,
            subset,
            base=path.name,
            allow_different_rest=allow_different_rest,
            read=read,
            progress=progress,
        )
    rows = VectorRows([vectors_KD])
    with stages.stage("score", f"{len(rows)} checkpoints") as progress:
        accuracy_K = measure_accuracy(rows, model, subset, data, scoring=scoring, progress=progress)
    settings = task.record()["task"]
    imported = {
        "model": recipe,
        "score_with": task.score_with,
        "data": None if task.score_with else settings["data"],
        "param": settings["param"],
        "allow_different_rest": allow_different_rest,
    }
    provenance = {
        "seconds": {"import": round(time.perf_counter() - start, 2)},
        "files": [file.name for file in files],
        "base": path.name,
    }
    return CheckpointSet(
        rows=rows,
        accuracy_K=accuracy_K,
        subset=subset,
        network=copy_state(model),
        settings={"imported": imported},
        provenance=provenance | record_images(data),
    )


def build_fitting_network(
    task: TaskSpec, facts: Mapping[str, int], model: nn.Module, *, state: Mapping[str, Tensor], path: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network that fits a full state dict, with new weights, and the recipe to record for it.

    A network of timm is built again, because the state dict decides whether it has the small stem.

    Args:
        task: The network's name and options, or the user's code.
        facts: The `num_classes`, `channels` and `image_size` of the images.
        model: The network that the task describes.
        state: The full state dict.
        path: The file of the state dict, named in the error.

    Raises:
        UserError: The state dict does not fit the network.
    """
    recipe: dict[str, Any] = {
        "name": type(model).__name__ if task.score_with else task.model.name,
        "pretrained": False,
        "small_stem": None,
        "options": dict(task.model.options),
    }
    if not task.score_with and ":" not in task.model.name:
        model, recipe["small_stem"] = rebuild(recipe, facts, state=state, source=str(path))
    if misfit := describe_misfit(state, model.state_dict(), get_floating_entries(model)):
        options = f"--score-with {task.score_with}" if task.score_with else "--model, --model-option and --dataset"
        classes = f" for {facts['num_classes']} classes" if facts else ""  # the user's own objective has no facts
        raise UserError(f"{path} does not fit the network {recipe['name']}{classes}: it {misfit}. Check {options}")
    return model, recipe


def read_base(files: Sequence[Path], base: Path | None, model: nn.Module) -> tuple[Path, dict[str, Tensor]]:
    """Return the path and the content of the full state dict that provides all parameters outside the subset.

    Args:
        files: The state dicts; the first full one is the base if `base` is None.
        base: The file that the user chose.
        model: The network.

    Raises:
        UserError: `base` does not exist, or it is None and no file is a full state dict.
    """
    if base and not base.is_file():
        raise UserError(f"--base {base}: file not found. Set --base to a full state dict of the network")
    known, floating = model.state_dict().keys(), get_floating_entries(model).keys()
    for path in [base] if base else files:
        state = rename_entries(read_state(path), known, path)
        if base or floating <= state.keys():
            return path, state
    missing = next(name for name in floating if name not in state)
    raise UserError(
        f"none of the {len(files)} files holds the whole network (for example, {path.name} lacks {missing}). "
        "Check --model. If it is right, set --base FILE to a full state dict of the network"
    )


def gather_vectors(
    files: Sequence[Path],
    model: nn.Module,
    subset: ParameterSubset,
    *,
    base: str,
    allow_different_rest: bool,
    read: Callable[[Path], Mapping[str, Tensor]] = read_state,
    progress: StageProgress | None = None,
) -> Tensor:
    """Return the subset of each file (K, D), read one file at a time.

    Args:
        files: The state dicts.
        model: The network with the weights of the base.
        subset: The parameters to read.
        base: The file name of the base, shown in the error.
        allow_different_rest: Accept files that differ from `model` outside the subset.
        read: Reads one file.
        progress: The progress of the stage that reads the files; None shows nothing.

    Raises:
        UserError: Files lack entries or have unexpected ones, hold NaN or infinity, or differ outside the subset.
    """
    expected, found = model.state_dict(), Findings()
    for path in (progress or StageProgress()).track(files):
        state = rename_entries(read(path), expected.keys(), path)
        if misfit := describe_misfit(state, expected, subset.names):
            found.misfits.append(f"{path.name} {misfit}")
            continue
        rest = [name for name in state if name not in subset.names and expected[name].is_floating_point()]
        if differing := [name for name in rest if not torch.equal(state[name].float(), expected[name].cpu())]:
            found.differing.append(path.name)
            found.first_difference = found.first_difference or f"{differing[0]} of {path.name}"
        found.vectors.append(torch.cat([state[name].reshape(-1).float() for name in subset.names]))
        if not torch.isfinite(found.vectors[-1]).all():
            raise UserError(
                f"{path} holds NaN or infinity in the subset. Remove this file, or exclude it with --files PATTERN"
            )
    check_findings(found, len(files), base=base, allow_different_rest=allow_different_rest)
    warn_about_copies(files, found.vectors)
    return torch.stack(found.vectors)


def check_findings(found: Findings, num_files: int, *, base: str, allow_different_rest: bool) -> None:
    """Check that every file can be one of the checkpoints.

    Raises:
        UserError: Some files do not fit the network, or differ from the base outside the subset.
    """
    if found.misfits:
        listed = "; ".join(found.misfits[:MAX_LISTED])
        if len(found.misfits) > MAX_LISTED:
            listed += f"; and {len(found.misfits) - MAX_LISTED} more"
        raise UserError(
            f"{len(found.misfits)} of {num_files} files do not fit the network of {base}: {listed}. "
            "Exclude them with --files PATTERN"
        )
    if found.differing and not allow_different_rest:
        raise UserError(
            f"{len(found.differing)} of {num_files} files differ from {base} outside the subset (first in "
            f"{found.first_difference}), so the network of {base} with their subset would be a different model. Set "
            "--subset all, or --subset to patterns that cover all differences. Use --allow-different-rest to import "
            f"them into the network of {base} anyway"
        )


def describe_misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], required: Collection[str]) -> str:
    """Return why a state dict does not fit a network, for example "lacks fc.bias (and 3 more)"; empty if it fits.

    Args:
        state: The state dict.
        expected: The state dict of the network.
        required: The names of entries that must not be missing.
    """
    missing = [f"lacks {name}" for name in required if name not in state]
    unknown = [f"has unexpected entry {name}" for name in state if name not in expected]
    shapes = [
        f"has {name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in state
        if name in expected and state[name].shape != expected[name].shape
    ]
    return ", ".join(
        faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
        for faults in (missing, unknown, shapes)
        if faults
    )


def warn_about_copies(files: Sequence[Path], vectors: Sequence[Tensor]) -> None:
    """Warn about files with the same subset, such as a best.pth that is a copy of one epoch."""
    seen: dict[bytes, Path] = {}
    for path, vector_D in zip(files, vectors, strict=True):
        first = seen.setdefault(hashlib.sha256(vector_D.numpy().data).digest(), path)
        if first is not path:
            log.warning(
                "%s and %s hold the same numbers in the subset. Exclude one of them with --files PATTERN",
                first.name,
                path.name,
            )
