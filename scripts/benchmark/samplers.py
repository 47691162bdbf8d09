"""Speed and quality of the samplers on one trained generator.

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

# names and steps; the first is the reference
SAMPLERS = (("ddpm", 1000), ("ddim", 50), ("dpm_solver", 10), ("dpm_solver", 20), ("dpm_solver", 50))
NUM_MODELS = 200


def restore_task(config: Any, accelerator: str, checkpoints: CheckpointSet) -> Task:
    """Return the task of a run from its config.yaml."""
    # Nothing is collected here, and runs of earlier versions do not name the kind of collection.
    spec = TaskSpec.from_config({**config["task"], "collect": {"kind": "independent", "runs": len(checkpoints)}})
    scoring = ScoringSpec.from_config(config["scoring"], num_workers=spec.data.num_workers, accelerator=accelerator)
    return Task.restore(spec, scoring, checkpoints)


def section(folder: Path, accelerator: str) -> tuple[list[dict[str, Any]], str]:
    """Sample 200 models with each sampler and score them on test, beside the originals; the rows and their table.

    Raises:
        UserError: `folder` holds no finished run, or its checkpoints or images are not where they were.
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
                "max_iou_mean": mean_similarity(scores, originals),
            }
        )
    return rows, table(rows)


def mean_similarity(scores: Scores, originals: Scores) -> float:
    """Return the maximum IoU with any original, averaged over the models.

    Raises:
        UserError: the task has no images that a model gets wrong.
    """
    if scores.wrong_MN is None or originals.wrong_MN is None:
        raise UserError("samplers are compared by the images that models get wrong; choose a run of such a task")
    return float(max_iou(scores.wrong_MN, originals.wrong_MN).mean())


def table(rows: list[dict[str, Any]]) -> str:
    """Tabulate every sampler beside the first."""
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
