"""The second command, which trains p-diff on K checkpoints and reports how good and how new M generated models are.

    python train_p_diff.py [mode=train|test|generate] [task.param.k=50] [system/sampler=ddpm] …

Run task_training.py first; it writes the checkpoints. configs/base.yaml explains the options. With the defaults
(digits, ResNet-18, K = M = 200), both commands together take about 8 minutes on 2 CPU cores. Re-run an interrupted
command to resume it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from torch import Tensor

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.low_rank import remove_updates
from core.command_line.entry_point import entry_point, format_sweep_suffix, to_plain
from core.evaluation.audit import are_independent, audit, find_origins, make_bootstrap
from core.evaluation.evaluate import Scoring, list_costs, score_run
from core.evaluation.positions import locate_models
from core.evaluation.sources import Material, SourceOptions
from core.evaluation.summary import summarize_tables
from core.evaluation.worth import measure_worth
from core.generation.generator import WeightGenerator
from core.generation.generator_file import load_matching_generator
from core.publishing.export import export
from core.publishing.generated_models import GeneratedModels
from core.report.page import write_page
from core.report.sentences import word_verdict
from core.report.tables import format_closing_words
from core.runtime.artifacts import write_json
from core.runtime.errors import UserError
from core.runtime.loggers import make_loggers
from core.runtime.progress import Stages
from core.runtime.run_directory import RunDirectory
from core.runtime.stage_progress import StageProgress
from core.runtime.trainer import count_devices, limit_to_one_device, pick_device
from core.training.fit_generator import fit_generator
from core.training.system import SystemSpec, select_training_settings
from tasks.description import describe_network
from tasks.importing.adopt import is_imported, open_checkpoints
from tasks.scoring.scorer import ScoringSpec
from tasks.specification import TaskSpec
from tasks.task import Task, digest_scoring_code, record_scoring
from tasks.training.deep_ensemble import check_deep_ensemble, list_deep_ensemble
from tasks.training.finetuning import list_finetuned
from tasks.training.laplace import list_laplace

log = logging.getLogger(__name__)
STAGES = {
    "train": ["autoencoder", "diffusion", "generate", "score", "report"],
    "test": ["generate", "score", "report"],
    "generate": ["generate"],
}


@entry_point
def main(cfg: DictConfig) -> None:
    """Run the stages of `cfg.mode`: checkpoints -> autoencoder -> latent DDPM -> new models -> scores -> report."""
    run = RunDirectory(Path(cfg.output_dir) / format_sweep_suffix())
    stages = Stages([name for name in STAGES[cfg.mode] if name != "diffusion" or cfg.system.denoiser])
    task, system = TaskSpec.from_config(to_plain(cfg.task)), SystemSpec.from_config(to_plain(cfg.system))
    scoring = ScoringSpec.from_config(
        to_plain(cfg.scoring), num_workers=task.data.num_workers, accelerator=cfg.trainer.accelerator
    )
    if cfg.mode == "generate":
        with run.hold(cfg.mode):
            generate(cfg, task, system, run=run, stages=stages)
        return

    task, checkpoints = open_checkpoints(task, typed=HydraConfig.get().overrides.task)
    checkpoints = checkpoints.first(task.param.k)
    checkpoints.require_distinct()
    system.check(checkpoints.subset.num_params)
    check_deep_ensemble(task, cfg.evaluation.deep_ensemble, imported=is_imported(checkpoints))
    restored = Task.restore(task, scoring, checkpoints, to_plain(cfg.evaluation)["ood"])  # before any training
    loggers = make_loggers(cfg.logger if cfg.mode == "train" else None, run.path)
    settings = select_training_settings(system, checkpoints, cfg.seed)
    if cfg.mode == "train":  # only training records it, because a run may be tested on another machine
        settings["trainer"] = {"precision": cfg.trainer.precision}
    with run.hold(cfg.mode):
        run.begin({**to_plain(cfg), "task": task.to_config()}, settings, cfg.mode)
        if cfg.mode == "train":
            train(cfg, system, checkpoints, run=run, stages=stages, loggers=loggers)
        generator = open_generator(cfg, system, checkpoints, run)
        vectors_MD = sample(cfg, generator, stages)
        score_and_report(
            cfg,
            task,
            restored,
            system=system,
            generator=generator,
            vectors_MD=vectors_MD,
            checkpoints=checkpoints,
            run=run,
            stages=stages,
        )


def train(
    cfg: DictConfig,
    system: SystemSpec,
    checkpoints: CheckpointSet,
    *,
    run: RunDirectory,
    stages: Stages,
    loggers: Sequence[Logger],
) -> None:
    """Fit a generator to the checkpoints and write generator.safetensors, unless the file already exists."""
    if run.generator.is_file():
        log.info("Skipping training: %s already exists and was trained with these settings", run.generator)
        return
    generator = fit_generator(
        system,
        checkpoints,
        seed=cfg.seed,
        state_dir=run.training_state,
        make_trainer=limit_to_one_device(instantiate(cfg.trainer)),
        loggers=loggers,
        stages=stages,
    )
    generator.save(run.generator)


def open_generator(
    cfg: DictConfig, system: SystemSpec, checkpoints: CheckpointSet, run: RunDirectory
) -> WeightGenerator:
    """Load the generator of a run onto the device, with the sampler of the current configuration."""
    generator = load_matching_generator(run.generator, checkpoints)
    return generator.use_sampler(system.sampler).to(pick_device(cfg.trainer.accelerator))


def sample(cfg: DictConfig, generator: WeightGenerator, stages: Stages) -> Tensor:
    """Generate the parameter vectors of M models, shape (M, D)."""
    with stages.stage("generate", f"{cfg.generation.num_models} models") as progress:
        num_steps = generator.recipes["sampler"]["num_steps"] if generator.has_steps else 1
        vectors_MD = generator.sample(
            cfg.seed,
            range(cfg.generation.num_models),
            batch_size=cfg.generation.batch_size,
            progress=lambda batches: progress.track(batches, work=len),
            on_step=lambda timestep, x_BL: progress.advance(len(x_BL) / num_steps),
        )
    require_finite(vectors_MD)
    return vectors_MD


def require_finite(vectors_MD: Tensor) -> None:
    """Raise `UserError` if a generated vector holds NaN or infinity, which no measure could compare."""
    broken = (~torch.isfinite(vectors_MD).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise UserError(
            f"{len(broken)} of {len(vectors_MD)} generated models hold NaN or infinity (the first is model "
            f"{broken[0]}). Set a larger system.sampler.num_steps, or train again with a smaller learning rate "
            "(system.autoencoder_optimizer.lr, system.denoiser_optimizer.lr)"
        )


def count_training_steps(system: SystemSpec, generator: WeightGenerator) -> int:
    """Return the optimizer steps of the generator's training; an autoencoder without parameters, as PCA, makes none."""
    learned = {name.partition(".")[0] for name, _ in generator.named_parameters()}
    steps = {"autoencoder": system.autoencoder_steps, "denoiser": system.diffusion_steps}
    return sum(steps[part] for part in steps if part in learned)


def gather(
    cfg: DictConfig, generator: WeightGenerator, vectors_MD: Tensor, checkpoints: CheckpointSet
) -> GeneratedModels:
    """Return the generated vectors with the network around them, and with the seed and the generator they came from."""
    return GeneratedModels(
        vectors_MD=vectors_MD,
        subset=checkpoints.subset,
        network=remove_updates(checkpoints.network, checkpoints.subset.updates),
        seed=cfg.seed,
        generator=generator.fingerprint,
    )


def score_and_report(
    cfg: DictConfig,
    spec: TaskSpec,
    task: Task,
    *,
    system: SystemSpec,
    generator: WeightGenerator,
    vectors_MD: Tensor,
    checkpoints: CheckpointSet,
    run: RunDirectory,
    stages: Stages,
) -> None:
    """Score the generated models and all baselines, then write metrics.json, the report and the exported models."""
    options = SourceOptions(**to_plain(cfg.evaluation))
    with stages.stage("score") as progress:
        material = Material(
            checkpoints=checkpoints,
            generator=generator,
            generated_MD=vectors_MD,
            options=options,
            seed=cfg.seed,
            training_steps=count_training_steps(system, generator),
        )
        by_task = score_with_task(cfg, spec, task, checkpoints=checkpoints, run=run, options=options, progress=progress)
        tables = score_run(material, by_task, run, progress=progress)
    stages.seconds["score"] = round(sum(table.seconds for table in tables.values()), 2)  # includes interrupted sessions
    models = gather(cfg, generator, vectors_MD, checkpoints)
    with stages.stage("report"):
        origins, costs = find_origins(checkpoints), list_costs(material, by_task)
        located = locate_models(tables)
        bootstrap = make_bootstrap(located, origins)
        symmetry = task.find_symmetry() if are_independent(located, origins) else None
        verdict = audit(located, bootstrap, origins, costs, symmetry)
        metrics = {
            **summarize_tables(located, bootstrap, closeness=verdict.closeness, costs=costs),
            "worth": measure_worth(tables),
            "verdict": word_verdict(verdict),
            "scored": models.identity,
            "seconds": {**checkpoints.provenance["seconds"], **generator.trained_on["seconds"], **stages.seconds},
        }
        write_json(run.metrics, metrics)
        page = write_page(run)
        if cfg.generation.num_exported:
            described = describe_network(checkpoints, spec.data)
            export(models, checkpoints, described, run=run, num_exported=cfg.generation.num_exported)
    log.info("\n%s\n\nReport: %s", format_closing_words(metrics), page)


def score_with_task(
    cfg: DictConfig,
    spec: TaskSpec,
    task: Task,
    *,
    checkpoints: CheckpointSet,
    run: RunDirectory,
    options: SourceOptions,
    progress: StageProgress,
) -> Scoring:
    """Return the functions with which the task scores parameter vectors, and the sources that it trains."""
    last = spec.last_optimization
    score_fns, ood_fns = task.score_fns(options.num_train_images, progress), task.ood_fns(progress)
    devices = count_devices(cfg.trainer.devices, cfg.trainer.accelerator)
    return Scoring(
        score_fns=score_fns,
        ood_fns=ood_fns,
        num_images={name: score_fn.num_images for name, score_fn in {**score_fns, **ood_fns}.items()},
        further=[
            *list_finetuned(task, checkpoints, last, options, cfg.seed),
            *list_laplace(
                task, checkpoints, score_fns["val"], batch_size=last.batch_size, options=options, seed=cfg.seed
            ),
            *list_deep_ensemble(
                spec,
                task,
                num_networks=options.deep_ensemble,
                num_train_images=options.num_train_images,
                seed=cfg.seed,
                folder=run.deep_ensemble,
                make_trainer=instantiate(cfg.trainer),
                machine={"precision": cfg.trainer.precision, "devices": devices},
                progress=progress,
            ),
        ],
        settings=record_scoring(spec, task.data, task.scoring.precision),
        code=digest_scoring_code(spec),
        reuse=cfg.mode == "train",
    )


def generate(cfg: DictConfig, task: TaskSpec, system: SystemSpec, *, run: RunDirectory, stages: Stages) -> None:
    """Write M new models into the folder generated/ of the run, without scoring them."""
    checkpoints = CheckpointSet.load(Path(task.param.path))
    generator = open_generator(cfg, system, checkpoints, run)
    run.record(cfg.mode)
    vectors_MD = sample(cfg, generator, stages)
    trained_on = checkpoints.first(generator.trained_on["k"])
    models, described = gather(cfg, generator, vectors_MD, trained_on), describe_network(trained_on, task.data)
    export(models, trained_on, described, run=run, num_exported=cfg.generation.num_exported)
    log.info("Wrote %d models of seed %d to %s", len(vectors_MD), cfg.seed, run.generated)


if __name__ == "__main__":
    main()
