"""Generated vectors as whole networks: full state dicts that load without this project.

M generated models · D numbers in one flattened subset.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.runtime.errors import UserError

HUB_NAME = "model.safetensors"  # what timm and the Hugging Face Hub look for


def file_name(index: int, count: int) -> str:
    """Of model `index` of `count`, so that names sort."""
    return f"{index:0{max(3, len(str(count - 1)))}}.safetensors"


def export_models(
    vectors_MD: Tensor,
    checkpoints: CheckpointSet,
    folder: Path,
    seed: int,
    beside: Mapping[str, str] | None = None,
    hub: bool = False,
) -> None:
    """Write one safetensors state dict per vector into `folder`, replacing an earlier export as a whole.

    Args:
        beside: texts by file name, written into the same folder.
        hub: give the first model a second name, `HUB_NAME`.

    Raises:
        UserError: they would not fit on the disk, or the folder is not writable.
    """
    new = folder.with_name(folder.name + ".new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        needed = len(vectors_MD) * sum(tensor.nbytes for tensor in checkpoints.network.values())
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise UserError(
                f"{len(vectors_MD)} whole networks take {needed / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB free; give a smaller generation.num_models"
            )
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for index, vector_D in enumerate(vectors_MD):
            state = {
                name: tensor.contiguous()
                for name, tensor in {**checkpoints.network, **unflatten(vector_D, checkpoints.subset)}.items()
            }
            save_file(
                state,
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


def give_second_name(path: Path, name: Path) -> None:
    """Without a second copy of the data, where the file system can."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
