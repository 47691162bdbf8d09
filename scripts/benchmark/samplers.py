"""A comparison of the samplers on one trained generator: speed, accuracy and similarity to the originals.

M generated models.
"""

import time
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.metrics import max_iou
from core.evaluation.scores import Scores
from core.generation.generator_file import load_generator
from core.report.cells import markdown
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from core.runtime.run_directory import RunDirectory
from tasks.scoring.scorer import ScoringSpec
from tasks.specification import TaskSpec
from tasks.task import Task

# The name of a file in configs/system/sampler, and the number of steps. The first sampler is the reference.
SAMPLERS = (("ddpm", 1000), ("ddim", 50), ("dpm_solver", 10), ("dpm_solver", 20), ("dpm_solver", 50))
NUM_MODELS = 200


def restore_task(config: Any, accelerator: str, checkpoints: CheckpointSet) -> Task:
    """Return the task of a run, given the content of its config.yaml."""
    # No checkpoint is collected here. Earlier versions did not record the kind of collection, so any valid one is set.
    spec = TaskSpec.from_config({**config["task"], "collect": {"kind": "independent", "runs": len(checkpoints)}})
    scoring = ScoringSpec.from_config(config["scoring"], num_workers=spec.data.num_workers, accelerator=accelerator)
    return Task.restore(spec, scoring, checkpoints)


def compare_samplers(folder: Path, accelerator: str) -> tuple[list[dict[str, Any]], str]:
    """Sample 200 models with each sampler and score them on test; return the rows and their Markdown table.

    Raises:
        UserError: `folder` holds no finished run, or its checkpoints or images were moved.
    """
    run = RunDirectory(folder)
    generator = load_generator(run.generator)
    cfg = OmegaConf.load(folder / "config.yaml")
    checkpoints = CheckpointSet.load(Path(cfg.task.param.path)).first(generator.trained_on["k"])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    task = restore_task(config, accelerator, checkpoints)
    generator.to(task.device)
    score = task.score_fns(cfg.evaluation.num_train_images)["test"]
    originals = score(checkpoints.vectors_KD)
    rows = []
    for name, num_steps in SAMPLERS:
        file = ROOT / f"configs/system/sampler/{name}.yaml"
        recipe = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file)))
        generator.use_sampler({**recipe, "num_steps": num_steps})
        generator.sample(cfg.seed, range(2))  # warm-up
        start = time.perf_counter()
        vectors_MD = generator.sample(cfg.seed, range(NUM_MODELS))
        seconds = time.perf_counter() - start
        scores = score(vectors_MD)
        rows.append(
            {
                "sampler": name,
                "steps": num_steps,
                "seconds": seconds,
                "accuracy_mean": float(scores.accuracy_M.mean()),
                "max_iou_mean": average_max_iou(scores, originals),
            }
        )
    return rows, format_table(rows)


def average_max_iou(scores: Scores, originals: Scores) -> float:
    """Return each model's largest IoU of wrong images with any original, averaged over the models.

    Raises:
        UserError: The scores of the task do not record which images are wrong.
    """
    if scores.wrong_MN is None or originals.wrong_MN is None:
        raise UserError(
            "the scores of this run do not record wrong images, which max IoU needs. Set --run to a classification run"
        )
    return float(max_iou(scores.wrong_MN, originals.wrong_MN).mean())


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of all samplers, with their differences from the first one."""
    header = [
        "sampler",
        "steps",
        f"{NUM_MODELS} models, s",
        "times faster",
        "accuracy mean %",
        "difference, points",
        "max IoU",
        "difference",
    ]
    first = rows[0]
    return markdown(
        header,
        [
            [
                row["sampler"],
                str(row["steps"]),
                f"{row['seconds']:.2f}",
                f"{first['seconds'] / row['seconds']:.1f}",
                f"{100 * row['accuracy_mean']:.2f}",
                f"{100 * (row['accuracy_mean'] - first['accuracy_mean']):+.2f}",
                f"{row['max_iou_mean']:.3f}",
                f"{row['max_iou_mean'] - first['max_iou_mean']:+.3f}",
            ]
            for row in rows
        ],
    )
