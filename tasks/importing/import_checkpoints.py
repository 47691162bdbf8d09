"""From a folder of state dicts that another program saved to a checkpoints file.

K checkpoints · D numbers in one flattened subset.
"""

import hashlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset, floating_entries, resolve_subset
from core.runtime.errors import UserError
from core.runtime.progress import Stages
from core.runtime.stage_progress import StageProgress
from tasks.importing.state_files import read_state, rename_entries
from tasks.networks.build import load_network
from tasks.networks.recipes import rebuild
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.specification import TaskSpec
from tasks.task import open_network_and_images
from tasks.training.collect_checkpoints import ACCURACY_SPLIT

log = logging.getLogger(__name__)
MOST_LISTED = 8  # files in one error sentence


@dataclass
class Gathered:
    """What reading the files one by one has found."""

    vectors: list[Tensor] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)  # "epoch3.pth lacks fc.bias"
    differing: list[str] = field(default_factory=list)  # names of files whose rest differs from the base
    first_difference: str = ""


def import_checkpoints(
    task: TaskSpec,
    files: Sequence[Path],
    *,
    base: Path | None = None,
    allow_different_rest: bool = False,
    scoring: ScoringSpec | None = None,
) -> CheckpointSet:
    """Read the subset of each file, in this order, and score it on validation inside the network of `base`.

    Args:
        task: `model`, `param.subset`, `param.count` and `data` or `score_with` are used.
        files: the state dicts.
        base: a full state dict, whose rest surrounds every subset; None: the first full one of `files`.
        allow_different_rest: take the subsets of files whose rest is another.
        scoring: how the checkpoints are scored.

    Raises:
        UserError: files that do not fit the network or each other; each is named with what differs.
    """
    start = time.perf_counter()
    model, data = open_network_and_images(task)
    path, state = read_base(files, base, model)
    recipe = {
        "name": type(model).__name__ if task.score_with else task.model.name,
        "pretrained": False,
        "small_stem": None,
        "options": dict(task.model.options),
    }
    if not task.score_with and ":" not in task.model.name:
        model, recipe["small_stem"] = rebuild(recipe, data.facts, state=state, source=str(path))
    if wrong := describe_misfit(state, model.state_dict(), floating_entries(model)):
        raise UserError(
            f"{path.name} {wrong}: it does not fit {recipe['name']} for {data.num_classes} classes; "
            "check --model, --model-option and the data"
        )
    subset = resolve_subset(model, task.param.subset, task.param.count)
    in_float32 = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    load_network(model, {**model.state_dict(), **in_float32}, str(path))
    stages = Stages(["read", "score"])
    with stages.stage("read", f"{len(files)} files") as progress:
        vectors_KD = gather_vectors(
            files, model, subset, base=path.name, allow_different_rest=allow_different_rest, progress=progress
        )

    images, normalize = data.split(ACCURACY_SPLIT), data.make_normalizer()
    with stages.stage("score", f"{len(vectors_KD)} checkpoints") as progress:
        label = f"{ACCURACY_SPLIT} images"
        score = Scorer(model, subset, images, normalize=normalize, label=label, options=scoring, progress=progress)
        with progress.part(units=len(vectors_KD) * score.num_images):
            accuracy_K = torch.from_numpy(score(vectors_KD).accuracy_M)
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
        "accuracy_split": ACCURACY_SPLIT,
        "data_fingerprint": data.fingerprint(),
        "files": [file.name for file in files],
        "base": path.name,
    }
    return CheckpointSet(
        vectors_KD=vectors_KD,
        accuracy_K=accuracy_K,
        subset=subset,
        network={name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
        settings={"imported": imported},
        provenance=provenance | data.about,
    )


def read_base(files: Sequence[Path], base: Path | None, model: nn.Module) -> tuple[Path, dict[str, Tensor]]:
    """Return the full state dict whose rest surrounds every subset, with its path.

    Raises:
        UserError: none of `files` is full, and no other is given.
    """
    known, floating = model.state_dict().keys(), floating_entries(model).keys()
    for path in [base] if base else files:
        state = rename_entries(read_state(path), known, path)
        if base or floating <= state.keys():
            return path, state
    missing = next(name for name in floating if name not in state)
    raise UserError(
        f"none of the {len(files)} files holds the whole network ({path.name} lacks {missing}); "
        "give one that does with --base FILE"
    )


def gather_vectors(
    files: Sequence[Path],
    model: nn.Module,
    subset: ParameterSubset,
    *,
    base: str,
    allow_different_rest: bool,
    progress: StageProgress,
) -> Tensor:
    """Return the subset of each file (K, D), read one file at a time.

    Args:
        files: the state dicts.
        model: holds the weights of the file called `base`.
        subset: of `model`.
        base: the name of a file, for messages.
        allow_different_rest: take the subsets of files whose rest is another than that of `model`.
        progress: The progress of the stage that reads the files.

    Raises:
        UserError: files lack entries or have others, hold what is not a number, or differ outside the subset.
    """
    own, found = model.state_dict(), Gathered()
    for path in progress.track(files):
        state = rename_entries(read_state(path), own.keys(), path)
        if wrong := describe_misfit(state, own, subset.names):
            found.misfits.append(f"{path.name} {wrong}")
            continue
        rest = [name for name in state if name not in subset.names and own[name].is_floating_point()]
        if others := [name for name in rest if not torch.equal(state[name].float(), own[name].cpu())]:
            found.differing.append(path.name)
            found.first_difference = found.first_difference or f"{others[0]} of {path.name}"
        found.vectors.append(torch.cat([state[name].reshape(-1).float() for name in subset.names]))
        if not torch.isfinite(found.vectors[-1]).all():
            raise UserError(
                f"{path} holds something that is not a finite number in the subset; "
                "leave that file out (--files takes a pattern)"
            )
    check_gathered(found, len(files), base=base, allow_different_rest=allow_different_rest)
    warn_of_copies(files, found.vectors)
    return torch.stack(found.vectors)


def check_gathered(found: Gathered, num_files: int, *, base: str, allow_different_rest: bool) -> None:
    """Name the files that cannot be part of the checkpoints.

    Raises:
        UserError: there are such.
    """
    if found.misfits:
        listed = "; ".join(found.misfits[:MOST_LISTED])
        if len(found.misfits) > MOST_LISTED:
            listed += f"; and {len(found.misfits) - MOST_LISTED} more"
        raise UserError(
            f"{len(found.misfits)} of {num_files} files do not fit the network that {base} fits: {listed}; "
            "leave them out (--files takes a pattern)"
        )
    if found.differing and not allow_different_rest:
        raise UserError(
            f"{len(found.differing)} of {num_files} files differ from {base} outside the subset (first in "
            f"{found.first_difference}), so their subsets inside its network would not be those models; give "
            f"--subset all, or globs that cover what differs (--allow-different-rest puts them into the network of "
            f"{base} all the same)"
        )


def describe_misfit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], required: Collection[str]) -> str:
    """Return what keeps a state dict from the network `own`: "lacks fc.bias (and 3 more)"; empty if nothing does."""
    missing = [f"lacks {name}" for name in required if name not in state]
    unknown = [f"has unexpected entry {name}" for name in state if name not in own]
    shapes = [
        f"has {name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in state
        if name in own and state[name].shape != own[name].shape
    ]
    return ", ".join(
        faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
        for faults in (missing, unknown, shapes)
        if faults
    )


def warn_of_copies(files: Sequence[Path], vectors: Sequence[Tensor]) -> None:
    """Log which files hold the same numbers, such as a best.pth beside the epoch it is."""
    seen: dict[bytes, Path] = {}
    for path, vector_D in zip(files, vectors, strict=True):
        first = seen.setdefault(hashlib.sha256(vector_D.numpy().data).digest(), path)
        if first is not path:
            log.warning(
                "%s and %s hold the same numbers: leave one out (--files takes a pattern)", first.name, path.name
            )
