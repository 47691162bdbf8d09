"""Train p-diff on K checkpoints, generate M new models, and report how good and how new they are.

python train_p_diff.py [mode=train|test|generate] [task.param.k=50] [system/sampler=ddpm] …
"""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.command_line.entry_point import entry_point, sweep_suffix
from core.evaluation.evaluate import evaluate
from core.evaluation.intervals import Bootstrap
from core.evaluation.scores import ScoreTable
from core.evaluation.sources import SourceOptions, sources
from core.evaluation.summary import summary
from core.evaluation.trajectories import follow
from core.evaluation.verdict import verdict
from core.generation.generator import WeightGenerator
from core.publishing.export import export_models, file_name
from core.publishing.model_card import model_card
from core.report.page import write_page
from core.report.sentences import worded
from core.report.tables import protocol_table, source_table
from core.runtime.artifacts import read_json, write_json
from core.runtime.errors import UserError
from core.runtime.loggers import make_loggers
from core.runtime.progress import Stages
from core.runtime.run_directory import RunDirectory
from core.runtime.settings import digest
from core.runtime.trainer import on_one_device, pick_device
from core.training.stages import train_generator, training_settings
from tasks.collecting.finetuning import finetune
from tasks.data.splits import DataOptions
from tasks.description import describe_network
from tasks.importing.adopt import open_checkpoints
from tasks.scoring.scorer import ScoringSpec
from tasks.specification import TaskSpec
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

    config: Any = OmegaConf.to_container(cfg, resolve=True)
    task, checkpoints = open_checkpoints(TaskSpec.from_config(config["task"]), typed=HydraConfig.get().overrides.task)
    checkpoints = checkpoints.first(task.param.k)
    settings = training_settings(cfg.system, checkpoints, cfg.seed)
    if cfg.mode == "train":  # a trained run may be tested on another machine
        settings["trainer"] = {"precision": cfg.trainer.precision}
    run.begin({**config, "task": task.to_config()}, settings, cfg.mode)
    if cfg.mode == "train":
        train(cfg, checkpoints, run, stages)
    score_and_report(cfg, task, checkpoints, run, stages)


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


def score_and_report(
    cfg: DictConfig, task: TaskSpec, checkpoints: CheckpointSet, run: RunDirectory, stages: Stages
) -> None:
    """generator.safetensors -> scores of every source -> metrics.json and the report."""
    generator = load_generator(cfg, run, checkpoints)
    with stages.stage("generate"):
        vectors_MD = generator.sample(
            cfg.seed, range(cfg.generation.num_models), cfg.generation.batch_size, stages.progress
        )

    with stages.stage("score"):
        tables = score(cfg, task, checkpoints, generator, vectors_MD, run, stages)
    stages.seconds["score"] = round(sum(table.seconds for table in tables.values()), 2)

    with stages.stage("report"):
        bootstrap = Bootstrap(tables)
        metrics = {**summary(tables, bootstrap), "verdict": worded(verdict(tables, bootstrap))}
        seconds = {**checkpoints.provenance["seconds"], **generator.trained_on["seconds"], **stages.seconds}
        write_json(run.metrics, {**metrics, "seconds": seconds})
        page = write_page(run)
        if cfg.generation.num_exported:
            export(cfg, vectors_MD[: cfg.generation.num_exported], checkpoints, run)
    write_json(run.metrics, {**metrics, "seconds": seconds | stages.seconds})
    headline, caution = metrics["verdict"]["sentences"][0], metrics["verdict"].get("caution")
    parts = [
        source_table(metrics),
        protocol_table(metrics),
        f"{headline}\n{caution}" if caution else headline,
        f"report: {page}",
    ]
    log.info("\n%s", "\n\n".join(parts))


def score(
    cfg: DictConfig,
    spec: TaskSpec,
    checkpoints: CheckpointSet,
    generator: WeightGenerator,
    vectors_MD: Tensor,
    run: RunDirectory,
    stages: Stages,
) -> dict[str, ScoreTable]:
    """Every source through the same scoring; what the figures need besides is saved with it."""
    scoring = ScoringSpec.from_config(
        cfg.scoring, num_workers=spec.data.num_workers, accelerator=cfg.trainer.accelerator
    )
    task, options = Task.restore(spec, scoring, checkpoints), SourceOptions(**cfg.evaluation)
    score_fns = task.score_fns(options.num_train_images)
    tune = partial(
        finetune,
        task=task,
        make_optimizer=spec.last_optimization.make_optimizer,
        batch_size=spec.last_optimization.batch_size,
        num_steps=options.finetune_steps,
        seed=cfg.seed,
    )
    common = {
        "checkpoints": checkpoints.fingerprint,
        "seed": cfg.seed,
        "evaluation": OmegaConf.to_container(cfg.evaluation),
        "precision": cfg.scoring.precision,
    }
    of_this_run = {**common, "generator": generator.fingerprint, "num_models": cfg.generation.num_models}
    tables = evaluate(
        sources(checkpoints, generator, lambda: vectors_MD, tune, options, cfg.seed),
        score_fns,
        run,
        shared=Path(cfg.task.param.path).parent / "scores" / digest(common),
        encode=generator.encode,
        soup_candidates=options.soup_candidates,
        identity=digest(of_this_run),
        shared_identity=digest(common),
        reuse=cfg.mode == "train",
        progress=stages.progress,
    )
    if generator.denoiser is not None:
        follow(generator, cfg.seed, options.num_trajectories, score_fns["val"]).save(run.trajectories)
    checkpoints.save_history(run.training_history)
    return tables


def export(cfg: DictConfig, vectors_MD: Tensor, checkpoints: CheckpointSet, run: RunDirectory) -> None:
    """Full state dicts, with a model card that says how to load them and what was measured."""
    data: Any = OmegaConf.to_container(cfg.task.data, resolve=True)
    about = describe_network(checkpoints, DataOptions(**data))
    files = file_name(0, len(vectors_MD)), file_name(len(vectors_MD) - 1, len(vectors_MD))
    metrics = read_json(run.metrics) if run.metrics.is_file() else None
    beside = {
        "README.md": model_card(
            checkpoints,
            files,
            network=about.network,
            code=about.code,
            library=about.library,
            images=about.images,
            dataset=about.dataset,
            hub=about.config is not None,
            seed=cfg.seed,
            metrics=metrics,
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
