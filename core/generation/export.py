"""Generated vectors as whole networks: full state dicts that load without this project.

M generated models · D numbers in one flattened subset.
"""

import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.runtime.errors import UserError


def export_models(vectors_MD: Tensor, checkpoints: CheckpointSet, folder: Path, seed: int) -> None:
    """Write one safetensors state dict per vector into `folder`, replacing an earlier export as a whole.

    Raises:
        UserError: they would not fit on the disk, or the folder is not writable.
    """
    new = folder.with_name(folder.name + ".new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        needed = len(vectors_MD) * sum(tensor.nbytes for tensor in checkpoints.network.values())
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise UserError(f"{len(vectors_MD)} whole networks take {needed / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB free; give a smaller generation.num_models")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        width = max(3, len(str(len(vectors_MD) - 1)))
        for index, vector_D in enumerate(vectors_MD):
            state = {name: tensor.contiguous() for name, tensor in {**checkpoints.network, **unflatten(vector_D, checkpoints.subset)}.items()}
            save_file(state, new / f"{index:0{width}}.safetensors", {"source": "p_diff", "seed": str(seed), "index": str(index)})
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write the generated models to {folder} ({reason}); choose another output_dir") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
