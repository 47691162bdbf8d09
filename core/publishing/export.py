"""Export of generated vectors as full state dicts, which load without this project, and their model card.

M generated models · D numbers in one flattened subset.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.publishing.model_card import Description, write_model_card
from core.runtime.artifacts import find_free_name, read_json
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)
# Files that an export writes, and may therefore replace.
OWN_NAMES = re.compile(r"\d{3,}\.safetensors|model\.safetensors|config\.json|README\.md")
HUB_NAME = "model.safetensors"  # the file name that timm and the Hugging Face Hub expect


def export(
    vectors_MD: Tensor, checkpoints: CheckpointSet, network: Description, *, run: RunDirectory, seed: int
) -> None:
    """Write generated models into a run, with a model card that shows how to load them and how good they are.

    Args:
        vectors_MD: The generated vectors.
        checkpoints: The checkpoints that the generator was trained on.
        network: The description of the network for the card.
        run: The run directory; the card shows its metrics.json if it exists.
        seed: The seed that the vectors were generated with.
    """
    card = write_model_card(
        checkpoints,
        network,
        files=(name_file(0, len(vectors_MD)), name_file(len(vectors_MD) - 1, len(vectors_MD))),
        seed=seed,
        metrics=read_json(run.metrics) if run.metrics.is_file() else None,
    )
    texts = {"README.md": card}
    if network.config:
        texts["config.json"] = json.dumps(network.config, indent=2) + "\n"
    export_models(vectors_MD, checkpoints, run.generated, seed=seed, texts=texts, hub=network.config is not None)


def export_models(
    vectors_MD: Tensor,
    checkpoints: CheckpointSet,
    folder: Path,
    *,
    seed: int,
    texts: Mapping[str, str] | None = None,
    hub: bool = False,
) -> None:
    """Write one safetensors state dict per vector into `folder`, replacing the whole folder of an earlier export.

    Args:
        vectors_MD: The generated vectors.
        checkpoints: The checkpoints, which hold the other parameters of the network.
        folder: The folder of the export.
        seed: The seed of generation, which each file records.
        texts: Text files to write into the same folder, by file name.
        hub: Whether to store the first model also under the name `HUB_NAME`.

    Raises:
        UserError: The disk is too small for the models, or the folder is not writable.
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
                new / name_file(index, len(vectors_MD)),
                {"source": "p_diff", "seed": str(seed), "index": str(index)},
            )
        for name, text in (texts or {}).items():
            (new / name).write_text(text)
        if hub:
            link_or_copy(new / name_file(0, len(vectors_MD)), new / HUB_NAME)
        keep_foreign_files(folder)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write the generated models to {folder} ({reason}). Set output_dir=FOLDER to a writable folder"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def keep_foreign_files(folder: Path) -> None:
    """Rename the folder of an earlier export if it also holds files that no export writes; log what is replaced."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    foreign = sorted(name for name in names if not OWN_NAMES.fullmatch(name))
    if foreign:
        aside = folder.rename(find_free_name(folder))
        log.warning("Moved %s to %s, because it holds files of others (%s)", folder, aside, ", ".join(foreign[:3]))
    elif names:
        log.info("Replaced the models of an earlier export in %s", folder)


def name_file(index: int, count: int) -> str:
    """Return the file name of model `index` of `count`, padded with zeros so that names sort by index."""
    return f"{index:0{max(3, len(str(count - 1)))}}.safetensors"


def check_space(num_models: int, checkpoints: CheckpointSet, folder: Path) -> None:
    """Check that the disk has space for this many full networks.

    Raises:
        UserError: The disk has too little free space.
    """
    needed = num_models * sum(tensor.nbytes for tensor in checkpoints.network.values())
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"{num_models} exported networks need {needed / 1e9:.1f} GB, but {folder.parent} has only "
            f"{free / 1e9:.1f} GB free. Set a smaller generation.num_models or generation.num_exported"
        )


def link_or_copy(source: Path, target: Path) -> None:
    """Create `target` as a hard link to `source`, or as a copy if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
