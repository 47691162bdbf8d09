"""Scores of every source: one table each, taken from disk where the same question was answered before."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from torch import Tensor

from core.evaluation.kinds import ENSEMBLE, GENERATED, Kind, soup_of
from core.evaluation.scores import ScoreFn, ScoreTable
from core.evaluation.soup import soups
from core.evaluation.sources import Material, Source, sources
from core.evaluation.store import Identity, ScoreStore
from core.evaluation.trajectories import RECORDED_STEPS, follow
from core.runtime.run_directory import RunDirectory
from core.runtime.stage_progress import StageProgress

Progress = Callable[[Iterable[Source]], Iterable[Source]]
BACKWARD = 2  # cost of the backward pass of a training step, in forward passes
TRAJECTORIES_SHARE = 0.1  # of the time of scoring a run, roughly


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Everything that the task knows of vectors, and whether earlier answers count."""

    score_fns: Mapping[str, ScoreFn]  # by split: "train", "val", "test"
    num_images: Mapping[str, int]  # by split; the cost of scoring one model, for the estimate of the time left
    finetune: Callable[[Tensor], Tensor]  # trains vectors (M, D) on
    finetune_images: int  # seen by one model in `finetune`
    precision: str  # of the arithmetic; tables of another precision are not taken
    reuse: bool  # whether tables on disk are taken


def score_run(
    material: Material, scoring: Scoring, run: RunDirectory, *, progress: StageProgress
) -> dict[str, ScoreTable]:
    """Score every source of a run; what the figures need besides the tables is saved with them."""
    has_steps, num_trajectories = material.generator.has_steps, material.options.num_trajectories
    with progress.part(1 - TRAJECTORIES_SHARE if has_steps else 1):
        tables = evaluate(
            sources(material, scoring.finetune),
            scoring.score_fns,
            store_of(material, scoring, run),
            soup_candidates=material.options.soup_candidates,
            progress=partial(
                progress.track, work=partial(count_images, material, scoring), name=lambda source: source.name
            ),
        )
    if has_steps:
        num_images = RECORDED_STEPS * num_trajectories * scoring.num_images["val"]
        with progress.part(TRAJECTORIES_SHARE, units=num_images, name="trajectories"):
            followed = follow(
                material.generator, scoring.score_fns["val"], seed=material.seed, num_trajectories=num_trajectories
            )
        followed.save(run.trajectories)
    material.checkpoints.save_history(run.training_history)
    return tables


def store_of(material: Material, scoring: Scoring, run: RunDirectory) -> ScoreStore:
    """Return the tables of a run under the identity of everything that its scores depend on."""
    common = {
        "checkpoints": material.checkpoints.fingerprint,
        "seed": material.seed,
        "evaluation": asdict(material.options),
        "precision": scoring.precision,
    }
    of_the_generator = {"generator": material.generator.fingerprint, "num_models": len(material.generated_MD)}
    return ScoreStore(
        run,
        Identity.of(common, of_the_generator),
        encode=material.generator.encode,
        checkpoints=material.checkpoints.path,
        reuse=scoring.reuse,
    )


def evaluate(
    given: Sequence[Source],
    score_fns: Mapping[str, ScoreFn],
    store: ScoreStore,
    *,
    soup_candidates: int,
    progress: Progress = iter,
) -> dict[str, ScoreTable]:
    """Return one table per source, each saved as soon as it is scored.

    The greedy soups of the originals and of the generated models come last, since they are made from the scores of
    those models on validation.

    Args:
        given: all sources but the soups.
        score_fns: by split.
        store: where tables are looked for and kept.
        soup_candidates: how many models a soup tries at most.
        progress: iterates over the sources that have to be scored, to show how many are done.
    """
    tables: dict[str, ScoreTable] = {}
    every = [*given, *soups(tables, score_fns["val"], soup_candidates)]
    tables.update({source.name: table for source in every if (table := store.get(source)) is not None})
    for source in progress([source for source in every if source.name not in tables]):
        tables[source.name] = store.put(source, scored(source, score_fns))
    return {source.name: tables[source.name] for source in every}


def count_images(material: Material, scoring: Scoring, source: Source) -> int:
    """Return the cost of scoring a source: the images that its models see, counted once for each model."""
    options, num_originals = material.options, len(material.checkpoints)
    num_generated = len(material.generated_MD)
    num_models = {
        Kind.ORIGINAL: num_originals,
        Kind.RECONSTRUCTED: num_originals,
        Kind.GENERATED: num_generated,
        Kind.SOUP: 1,
    }.get(source.kind, 1 if source.name == ENSEMBLE else options.num_baselines)
    count = num_models * sum(scoring.num_images[split] for split in source.splits)
    if source.kind is Kind.SOUP:
        num_candidates = num_generated if source.name == soup_of(GENERATED) else num_originals
        count += (min(num_candidates, options.soup_candidates) - 1) * scoring.num_images["val"]  # all but the first
    if source.kind is Kind.TRAINED:
        count += num_models * (1 + BACKWARD) * scoring.finetune_images
    return count


def scored(source: Source, score_fns: Mapping[str, ScoreFn]) -> ScoreTable:
    """Make the models of a source, and score them on its splits."""
    start = time.perf_counter()
    vectors_MD = source.make()
    scores = {split: score_fns[split](vectors_MD) for split in source.splits}
    return ScoreTable(source.name, vectors_MD.numpy(), scores, "", time.perf_counter() - start)
