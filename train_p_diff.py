"""Train p-diff on K checkpoints, generate M new models, and report how good and how new they are.

python train_p_diff.py [mode=train|test|generate] [task.param.k=50] [system/sampler=ddpm] …
"""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.command_line.entry_point import entry_point, sweep_suffix
from core.evaluation.audit import audit
from core.evaluation.evaluate import Scoring, score_run
from core.evaluation.intervals import Bootstrap
from core.evaluation.sources import Material, SourceOptions
from core.evaluation.summary import summary
from core.generation.generator import WeightGenerator
from core.publishing.export import export_models, file_name
from core.publishing.model_card import model_card
from core.report.page import write_page
from core.report.sentences import worded
from core.report.tables import closing_words
from core.runtime.artifacts import read_json, write_json
from core.runtime.errors import UserError
from core.runtime.loggers import make_loggers
from core.runtime.progress import Stages
from core.runtime.run_directory import RunDirectory
from core.runtime.trainer import on_one_device, pick_device
from core.training.stages import train_generator, training_settings
from tasks.collecting.finetuning import finetune
from tasks.collecting.training import is_independent
from tasks.description import loading
from tasks.importing.adopt import open_checkpoints
from tasks.task import Task

log = logging.getLogger(__name__)
STAGES = {
    "train": ["autoencoder", "diffusion", "generate", "score", "report"],
    "test": ["generate", "score", "report"],
    "generate": ["generate"],
}


@entry_point
def main(cfg: DictConfig) -> None:
    """Checkpoints -> autoencoder -> latent DDPM -> generated weights -> scores -> report."""
    if cfg.mode not in STAGES:
        raise UserError(f"mode={cfg.mode}: expected one of {', '.join(STAGES)}")
    run = RunDirectory(Path(cfg.output_dir) / sweep_suffix())
    stages = Stages([name for name in STAGES[cfg.mode] if name != "diffusion" or cfg.system.denoiser])
    if cfg.mode == "generate":
        generate(cfg, run, stages)
        return

    cfg, checkpoints = open_checkpoints(cfg, typed=HydraConfig.get().overrides.task)
    checkpoints = checkpoints.first(cfg.task.param.k)
    settings = training_settings(cfg.system, checkpoints, cfg.seed)
    if cfg.mode == "train":  # a trained run may be tested on another machine
        settings["trainer"] = {"precision": cfg.trainer.precision}
    run.begin(cfg, settings, cfg.mode)
    if cfg.mode == "train":
        train(cfg, checkpoints, run, stages)
    score_and_report(cfg, checkpoints, run, stages=stages)


def train(cfg: DictConfig, checkpoints: CheckpointSet, run: RunDirectory, stages: Stages) -> None:
    """Checkpoints -> generator.safetensors, unless it is there."""
    if run.generator.is_file():
        log.info("%s was trained with these settings: training is skipped", run.generator)
        return
    generator = train_generator(
        cfg.system,
        checkpoints,
        seed=cfg.seed,
        state_dir=run.training_state,
        make_trainer=on_one_device(instantiate(cfg.trainer)),
        loggers=make_loggers(cfg.logger, run.path),
        stages=stages,
    )
    generator.save(run.generator)


def load_generator(cfg: DictConfig, run: RunDirectory, checkpoints: CheckpointSet) -> WeightGenerator:
    """The trained generator, on the device, with the sampler asked for now.

    Raises:
        UserError: missing or damaged, or trained on other checkpoints than the first of these.
    """
    generator = WeightGenerator.load(run.generator)
    if checkpoints.first(generator.trained_on["k"]).fingerprint != generator.trained_on["fingerprint"]:
        raise UserError(
            f"{run.generator} was not trained on the checkpoints in {checkpoints.path}; give task.param.path= of those that it was trained on"
        )
    return generator.use_sampler(OmegaConf.to_container(cfg.system)["sampler"]).to(pick_device(cfg.trainer.accelerator))


def score_and_report(cfg: DictConfig, checkpoints: CheckpointSet, run: RunDirectory, *, stages: Stages) -> None:
    """generator.safetensors -> scores of every source -> metrics.json -> the report and exported models."""
    generator = load_generator(cfg, run, checkpoints)
    with stages.stage("generate"):
        vectors_MD = generator.sample(
            cfg.seed, range(cfg.generation.num_models), cfg.generation.batch_size, stages.progress
        )
    with stages.stage("score"):
        material = Material(
            checkpoints=checkpoints,
            generator=generator,
            generated_MD=vectors_MD,
            options=SourceOptions(**cast("dict[str, Any]", OmegaConf.to_container(cfg.evaluation))),
            seed=cfg.seed,
        )
        tables = score_run(material, scoring_by_task(cfg, checkpoints), run, progress=stages.progress)
    stages.seconds["score"] = round(sum(table.seconds for table in tables.values()), 2)
    with stages.stage("report"):
        bootstrap = Bootstrap(tables)
        metrics = {
            **summary(tables, bootstrap),
            "verdict": worded(audit(tables, bootstrap)),
            "seconds": {**checkpoints.provenance["seconds"], **generator.trained_on["seconds"], **stages.seconds},
        }
        write_json(run.metrics, metrics)
        page = write_page(run)
        if cfg.generation.num_exported:
            export(cfg, vectors_MD[: cfg.generation.num_exported], checkpoints, run)
    log.info("\n%s\n\nreport: %s", closing_words(metrics), page)


def scoring_by_task(cfg: DictConfig, checkpoints: CheckpointSet) -> Scoring:
    """Return how the task scores vectors and trains them on."""
    task = Task.of(cfg, checkpoints)
    last_trained = cfg.task if is_independent(cfg.task) else cfg.task.collect
    tune = partial(
        finetune,
        task=task,
        make_optimizer=instantiate(last_trained.optimizer),
        batch_size=last_trained.batch_size,
        num_steps=cfg.evaluation.finetune_steps,
        seed=cfg.seed,
    )
    return Scoring(
        score_fns=task.score_fns(cfg.evaluation.num_train_images),
        finetune=tune,
        precision=cfg.scoring.precision,
        reuse=cfg.mode == "train",
    )


def export(cfg: DictConfig, vectors_MD: Tensor, checkpoints: CheckpointSet, run: RunDirectory) -> None:
    """Full state dicts, with a model card that says how to load them and what was measured."""
    about = loading(checkpoints, cfg.task)
    files = file_name(0, len(vectors_MD)), file_name(len(vectors_MD) - 1, len(vectors_MD))
    described = {name: value for name, value in vars(about).items() if name != "config"}
    metrics = read_json(run.metrics) if run.metrics.is_file() else None
    beside = {
        "README.md": model_card(
            checkpoints, files, **described, hub=about.config is not None, seed=cfg.seed, metrics=metrics
        )
    }
    if about.config:
        beside["config.json"] = json.dumps(about.config, indent=2) + "\n"
    export_models(vectors_MD, checkpoints, run.generated, cfg.seed, beside, hub=about.config is not None)


def generate(cfg: DictConfig, run: RunDirectory, stages: Stages) -> None:
    """generator.safetensors -> full state dicts of M new models, without scoring them."""
    checkpoints = CheckpointSet.load(Path(cfg.task.param.path))
    generator = load_generator(cfg, run, checkpoints)
    run.record(cfg.mode)
    with stages.stage("generate"):
        vectors_MD = generator.sample(
            cfg.seed, range(cfg.generation.num_models), cfg.generation.batch_size, stages.progress
        )
        export(cfg, vectors_MD, checkpoints.first(generator.trained_on["k"]), run)
    log.info("%d models of seed %d are in %s", len(vectors_MD), cfg.seed, run.generated)


if __name__ == "__main__":
    main()
