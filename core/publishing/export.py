"""Export of generated models as a folder that loads without this project: two files for all models, and their card.

M generated models · D numbers in one flattened subset.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from core.checkpoints.checkpoint_set import CheckpointSet
from core.publishing.generated_models import GeneratedModels
from core.publishing.model_card import Description, write_model_card
from core.runtime.artifacts import find_free_name, link_or_copy, read_json
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)
# Files that an export writes, and may therefore replace.
OWN_NAMES = re.compile(r"(\d{3,}|model|network|vectors)\.safetensors|\d{3,}_adapter|config\.json|README\.md")
HUB_NAME = "model.safetensors"  # the file name that timm and the Hugging Face Hub expect


def export(
    models: GeneratedModels, checkpoints: CheckpointSet, network: Description, *, run: RunDirectory, num_exported: int
) -> None:
    """Write generated models into a run, with a model card that shows how to load them and how good they are.

    Args:
        models: The generated models.
        checkpoints: The checkpoints that the generator was trained on.
        network: The description of the network for the card.
        run: The run directory; the card shows its metrics.json if it exists.
        num_exported: The number of models, from model 0 on, that are also written as full state dicts.

    Raises:
        UserError: The disk is too small for the models, or the folder is not writable.
    """
    num_exported = min(num_exported, len(models))
    metrics = read_json(run.metrics) if run.metrics.is_file() else None
    texts = {"README.md": write_model_card(models, checkpoints, network, num_exported=num_exported, metrics=metrics)}
    hub = network.config is not None and num_exported > 0
    if hub:
        texts["config.json"] = json.dumps(network.config, indent=2) + "\n"
    write_folder(models, run.generated, num_exported=num_exported, texts=texts, hub=hub)


def write_folder(
    models: GeneratedModels,
    folder: Path,
    *,
    num_exported: int,
    texts: Mapping[str, str] | None = None,
    hub: bool = False,
) -> None:
    """Write generated models into `folder`, replacing the whole folder of an earlier export.

    Args:
        models: The generated models.
        folder: The folder of the export.
        num_exported: The number of models, from model 0 on, that are also written as full state dicts.
        texts: Text files to write into the same folder, by file name.
        hub: Whether to store model 0 also under the name `HUB_NAME`; this needs `num_exported` of at least 1.

    Raises:
        UserError: The disk is too small for the models, or the folder is not writable.
    """
    new = folder.with_name(folder.name + ".new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_space(models, num_exported, folder)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        models.save(new)
        for number in range(num_exported):
            models.save_state_dict(number, new / models.name_file(number))
        for name, text in (texts or {}).items():
            (new / name).write_text(text)
        if hub:
            link_or_copy(new / models.name_file(0), new / HUB_NAME)
        keep_foreign_files(folder)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the generated models to {folder} ({error.strerror or error}). "
            "Set output_dir=FOLDER to a writable folder"
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


def check_space(models: GeneratedModels, num_exported: int, folder: Path) -> None:
    """Check that the disk has space for the shared network, all vectors and the full state dicts.

    Raises:
        UserError: The disk has too little free space.
    """
    network_bytes = sum(tensor.nbytes for tensor in models.network.values())
    needed = (1 + num_exported) * network_bytes + models.vectors_MD.nbytes
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"{len(models)} generated models, {num_exported} of them as full state dicts, need {needed / 1e9:.1f} GB, "
            f"but {folder.parent} has only {free / 1e9:.1f} GB free. "
            "Set a smaller generation.num_models or generation.num_exported"
        )
