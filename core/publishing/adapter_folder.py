"""The low-rank updates of a generated model as a folder in the format of the package peft."""

import json
from pathlib import Path

from safetensors.torch import save_file

from core.checkpoints.subset import unflatten
from core.publishing.generated_models import GeneratedModels
from core.runtime.artifacts import replace_atomically
from core.runtime.errors import UserError

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(models: GeneratedModels, number: int, folder: Path) -> None:
    """Write A and B of every update of one model, and the settings with which peft adds their product.

    Args:
        models: The generated models.
        number: The number of the model.
        folder: The folder to write, with adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: The models are not low-rank updates of one rank and scale, or a file cannot be written.
    """
    values, updates = unflatten(models.vectors_MD[number], models.subset), models.subset.updates
    kinds = {(len(values[update.a]), update.scale) for update in updates}
    if len(kinds) != 1:
        raise UserError("--peft needs generated adapters of one rank. Remove --peft to write the full state dict")
    ((rank, scale),) = kinds
    layers = [update.weight.rpartition(".")[0] for update in updates]
    tensors = {
        f"base_model.model.{layer}.lora_{part}.weight": values[name].contiguous()
        for layer, update in zip(layers, updates, strict=True)
        for part, name in (("A", update.a), ("B", update.b))
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replace_atomically(folder / WEIGHTS_NAME) as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "target_modules": layers}
    # peft warns of entries that it does not know, so the file has no hash of its content.
    with replace_atomically(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")
