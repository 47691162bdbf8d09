"""Generator files: read as the kind of generator that they record, and matched with their checkpoints."""

from collections.abc import Mapping
from pathlib import Path

from core.checkpoints.checkpoint_set import CheckpointSet
from core.generation.generator import KIND, WeightGenerator
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.runtime.artifacts import load_artifact
from core.runtime.errors import UserError, nearest

GENERATORS: Mapping[str, type[WeightGenerator]] = {LatentDiffusionGenerator.kind: LatentDiffusionGenerator}


def load_generator(path: Path) -> WeightGenerator:
    """Read a generator file; runs no code from it.

    Raises:
        UserError: The file is missing, damaged or foreign, or it names something other than a network of ours.
    """
    state, metadata = load_artifact(
        path,
        KIND,
        hint="train one with python train_p_diff.py mode=train, or say with output_dir=FOLDER where it is",
    )
    kind = metadata.get("generator", LatentDiffusionGenerator.kind)  # files were written without it at first
    if kind not in GENERATORS:
        raise UserError(f"{path} holds a generator of an unknown kind, {kind}; {nearest(str(kind), GENERATORS)}")
    try:
        return GENERATORS[kind].from_file(state, metadata)
    except (KeyError, RuntimeError, TypeError, UserError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} does not hold a whole generator ({reason}); train again") from error


def load_generator_of(path: Path, checkpoints: CheckpointSet) -> WeightGenerator:
    """Read a generator that was trained on the first of these checkpoints.

    Raises:
        UserError: The generator was trained on others, or its file cannot be read.
    """
    generator = load_generator(path)
    if checkpoints.first(generator.trained_on["k"]).fingerprint != generator.trained_on["fingerprint"]:
        raise UserError(
            f"{path} was not trained on the checkpoints in {checkpoints.path}; "
            "set task.param.path= to those that it was trained on"
        )
    return generator
