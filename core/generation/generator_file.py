"""Reading of generator files, and the check that a generator belongs to given checkpoints."""

from collections.abc import Mapping
from pathlib import Path

from core.checkpoints.checkpoint_set import CheckpointSet
from core.generation.generator import KIND, WeightGenerator
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.runtime.artifacts import load_artifact
from core.runtime.errors import UserError

GENERATORS: Mapping[str, type[WeightGenerator]] = {LatentDiffusionGenerator.kind: LatentDiffusionGenerator}


def load_generator(path: Path) -> WeightGenerator:
    """Read a generator file as the kind of generator that it names, without running any code from it.

    Raises:
        UserError: The file is missing, damaged or no generator file, or names a class that `check_recipe` refuses.
    """
    state, metadata = load_artifact(
        path,
        KIND,
        hint="Train one with python train_p_diff.py mode=train, or set output_dir=FOLDER to the run that holds one",
    )
    kind = metadata.get("generator", LatentDiffusionGenerator.kind)  # early generator files name no kind
    if kind not in GENERATORS:
        raise UserError(
            f"{path} has the unknown generator kind {kind}. Update p-diff, or train again with "
            "python train_p_diff.py mode=train"
        )
    try:
        return GENERATORS[kind].from_file(state, metadata)
    except (KeyError, RuntimeError, TypeError, UserError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path} is not a complete generator ({reason}). Remove it and run python train_p_diff.py mode=train again"
        ) from error


def load_matching_generator(path: Path, checkpoints: CheckpointSet) -> WeightGenerator:
    """Read a generator file and check that the generator was trained on the first k of these checkpoints.

    Raises:
        UserError: The generator was trained on other checkpoints, or `load_generator` cannot read the file.
    """
    generator = load_generator(path)
    if checkpoints.first(generator.trained_on["k"]).fingerprint != generator.trained_on["fingerprint"]:
        raise UserError(
            f"{path} was not trained on the checkpoints in {checkpoints.path}. "
            "Set task.param.path=FILE to the checkpoints that it was trained on"
        )
    return generator
