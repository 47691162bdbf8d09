"""The full state dicts of chosen generated models, made from the two files that hold all models of a run.

python -m scripts.export outputs/digits_resnet18/ae_ddpm --model 17
python -m scripts.export outputs/digits_resnet18/ae_ddpm --model 17 18 19 --out chosen_models
python -m scripts.export outputs/digits_vit_tiny_patch16_224/ae_ddpm --model 17 --peft
"""

from collections.abc import Sequence
from pathlib import Path

from core.command_line.run_command import run_command
from core.publishing.adapter_folder import save_adapter
from core.publishing.generated_models import NETWORK_NAME, VECTORS_NAME, GeneratedModels
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from scripts.console import make_parser, print_line


def main() -> None:
    """Write one safetensors file, or one folder of an adapter, per chosen model and print its path."""
    parser = make_parser("python -m scripts.export", __doc__)
    parser.add_argument("folder", type=Path, help="output_dir of a run of train_p_diff.py, or its folder generated/")
    parser.add_argument(
        "--model", type=int, nargs="+", required=True, metavar="NUMBER", help="numbers of models, from 0 on (required)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder to write into (default: the folder generated/ of the run)"
    )
    parser.add_argument(
        "--peft",
        action="store_true",
        help="write generated adapters as folders that peft loads (default: full state dicts, with adapters merged)",
    )
    arguments = parser.parse_args()
    folder = find_generated(arguments.folder)
    models = GeneratedModels.load(folder)
    check_numbers(models, arguments.model, folder)
    out = arguments.out or folder
    if arguments.peft:
        export_adapters(models, arguments.model, out)
        return
    paths = {number: out / models.name_file(number) for number in arguments.model}
    missing = find_missing(models, paths)
    for number, path in paths.items():
        if number in missing:
            models.save_state_dict(number, path)
        print_line(f"{'wrote' if number in missing else 'already there:'} {path}")


def export_adapters(models: GeneratedModels, numbers: Sequence[int], out: Path) -> None:
    """Write the adapter of each of these models into a folder of its own, and print the path.

    Raises:
        UserError: The models have no adapters, or a folder already exists.
    """
    folders = {number: out / f"{Path(models.name_file(number)).stem}_adapter" for number in numbers}
    if existing := [folder for folder in folders.values() if folder.exists()]:
        raise UserError(f"{existing[0]} already exists. Remove it, or set --out to another folder")
    for number, folder in folders.items():
        save_adapter(models, number, folder)
        print_line(f"wrote {folder}")


def find_generated(folder: Path) -> Path:
    """Return the folder of the generated models: `folder` itself, or generated/ in a run.

    Raises:
        UserError: The folder does not exist, or holds no generated models.
    """
    if not folder.is_dir():
        raise UserError(f"folder {folder} not found. Use the output_dir of a run, or its folder generated/")
    inside = RunDirectory(folder).generated
    found = inside if inside.is_dir() else folder
    if not any((found / name).is_file() for name in (NETWORK_NAME, VECTORS_NAME)):
        run = found.parent if found.name == inside.name else folder
        raise UserError(
            f"{found} holds no generated models in {VECTORS_NAME}. Run python train_p_diff.py mode=generate "
            f"output_dir={run} with the other overrides of the run"
        )
    return found


def check_numbers(models: GeneratedModels, numbers: Sequence[int], folder: Path) -> None:
    """Check that models with these numbers exist.

    Raises:
        UserError: There is no model with one of the numbers.
    """
    for number in numbers:
        if not 0 <= number < len(models):
            raise UserError(
                f"--model {number} is invalid: {folder} holds {len(models)} models. "
                f"Set --model to numbers from 0 to {len(models) - 1}"
            )


def find_missing(models: GeneratedModels, paths: dict[int, Path]) -> list[int]:
    """Return the numbers of the models whose file does not exist yet.

    Raises:
        UserError: A file exists and holds something else than the full state dict of its model.
    """
    missing = [number for number, path in paths.items() if not path.exists()]
    for number, path in paths.items():
        if number not in missing and not models.is_saved(number, path):
            raise UserError(
                f"{path} already exists and does not hold model {number} of seed {models.seed}. "
                "Remove the file, or set --out to another folder"
            )
    return missing


if __name__ == "__main__":
    run_command(main)
