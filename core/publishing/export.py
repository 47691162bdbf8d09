"""Generated vectors as whole networks: full state dicts that load without this project, and their model card.

M generated models · D numbers in one flattened subset.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.publishing.model_card import Description, model_card
from core.runtime.artifacts import read_json
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

HUB_NAME = "model.safetensors"  # what timm and the Hugging Face Hub look for


def export(
    vectors_MD: Tensor, checkpoints: CheckpointSet, network: Description, *, run: RunDirectory, seed: int
) -> None:
    """Write generated models into a run, with a model card that says how to load them and what was measured.

    Args:
        vectors_MD: The generated vectors.
        checkpoints: The set that the generator was trained on.
        network: What the card says of the network.
        run: The directory of the run; metrics.json is read where it is there.
        seed: The seed that the vectors were generated with.
    """
    card = model_card(
        checkpoints,
        network,
        files=(file_name(0, len(vectors_MD)), file_name(len(vectors_MD) - 1, len(vectors_MD))),
        seed=seed,
        metrics=read_json(run.metrics) if run.metrics.is_file() else None,
    )
    beside = {"README.md": card}
    if network.config:
        beside["config.json"] = json.dumps(network.config, indent=2) + "\n"
    export_models(vectors_MD, checkpoints, run.generated, seed=seed, beside=beside, hub=network.config is not None)


def export_models(
    vectors_MD: Tensor,
    checkpoints: CheckpointSet,
    folder: Path,
    *,
    seed: int,
    beside: Mapping[str, str] | None = None,
    hub: bool = False,
) -> None:
    """Write one safetensors state dict per vector into `folder`, replacing an earlier export as a whole.

    Args:
        vectors_MD: The generated vectors.
        checkpoints: The set that they belong to, with the network around them.
        folder: The folder of the export.
        seed: Recorded in each file.
        beside: Texts by file name, written into the same folder.
        hub: Give the first model a second name, `HUB_NAME`.

    Raises:
        UserError: The models would not fit on the disk, or the folder is not writable.
    """
    new = folder.with_name(folder.name + ".new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_space(len(vectors_MD), checkpoints, folder)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for index, vector_D in enumerate(vectors_MD):
            state = {**checkpoints.network, **unflatten(vector_D, checkpoints.subset)}
            save_file(
                {name: tensor.contiguous() for name, tensor in state.items()},
                new / file_name(index, len(vectors_MD)),
                {"source": "p_diff", "seed": str(seed), "index": str(index)},
            )
        for name, text in (beside or {}).items():
            (new / name).write_text(text)
        if hub:
            give_second_name(new / file_name(0, len(vectors_MD)), new / HUB_NAME)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write the generated models to {folder} ({reason}); choose another output_dir"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def file_name(index: int, count: int) -> str:
    """Return the name of model `index` of `count`; names sort."""
    return f"{index:0{max(3, len(str(count - 1)))}}.safetensors"


def check_space(num_models: int, checkpoints: CheckpointSet, folder: Path) -> None:
    """Raise `UserError` where that many whole networks would not fit on the disk."""
    needed = num_models * sum(tensor.nbytes for tensor in checkpoints.network.values())
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"{num_models} whole networks take {needed / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB "
            "free; give a smaller generation.num_models"
        )


def give_second_name(path: Path, name: Path) -> None:
    """Link a file, which takes no second copy of the data; copy it where the file system has no links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
