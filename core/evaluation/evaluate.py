"""Scoring of all sources, one table each; a stored table of the same settings is reused."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from core.evaluation.scores import ScoreFn, ScoreTable
from core.evaluation.soup import list_soups
from core.evaluation.sources import Material, Source, sources
from core.evaluation.store import Identity, ScoreStore
from core.evaluation.trajectories import record_trajectories
from core.runtime.run_directory import RunDirectory

Progress = Callable[[Iterable[Source]], Iterable[Source]]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Functions of the task that score and train vectors, and whether stored tables are reused."""

    score_fns: Mapping[str, ScoreFn]  # by split, "train", "val" and "test"
    finetune: Callable[[Tensor], Tensor]  # trains vectors (M, D) further
    precision: str  # arithmetic of scoring; tables of another precision are not reused
    reuse: bool  # whether tables on disk are reused


def score_run(
    material: Material, scoring: Scoring, run: RunDirectory, *, progress: Progress = iter
) -> dict[str, ScoreTable]:
    """Score every source of a run, and save the trajectories and the training history that the figures show."""
    tables = evaluate(
        sources(material, scoring.finetune),
        scoring.score_fns,
        open_store(material, scoring, run),
        soup_candidates=material.options.soup_candidates,
        progress=progress,
    )
    if material.generator.has_steps:
        trajectories = record_trajectories(
            material.generator,
            scoring.score_fns["val"],
            seed=material.seed,
            num_trajectories=material.options.num_trajectories,
        )
        trajectories.save(run.trajectories)
    material.checkpoints.save_history(run.training_history)
    return tables


def open_store(material: Material, scoring: Scoring, run: RunDirectory) -> ScoreStore:
    """Return the store of a run's score tables, whose identity covers everything that the scores depend on."""
    common = {
        "checkpoints": material.checkpoints.fingerprint,
        "seed": material.seed,
        "evaluation": asdict(material.options),
        "precision": scoring.precision,
    }
    generator = {"generator": material.generator.fingerprint, "num_models": len(material.generated_MD)}
    return ScoreStore(
        run,
        Identity.from_settings(common, generator),
        encode=material.generator.encode,
        checkpoints=material.checkpoints.path,
        reuse=scoring.reuse,
    )


def evaluate(
    base_sources: Sequence[Source],
    score_fns: Mapping[str, ScoreFn],
    store: ScoreStore,
    *,
    soup_candidates: int,
    progress: Progress = iter,
) -> dict[str, ScoreTable]:
    """Return one table per source, each saved as soon as it is scored.

    The greedy soups of the originals and of the generated models come last, because they are made from the validation
    scores of these models.

    Args:
        base_sources: all sources except the soups.
        score_fns: scoring functions by split.
        store: storage that is searched for tables and saves new ones.
        soup_candidates: maximum number of models that a soup tries.
        progress: iterates over the sources and shows a progress bar.
    """
    tables: dict[str, ScoreTable] = {}
    for source in progress([*base_sources, *list_soups(tables, score_fns["val"], soup_candidates)]):
        table = store.get(source)
        tables[source.name] = store.put(source, score_source(source, score_fns)) if table is None else table
    return tables


def score_source(source: Source, score_fns: Mapping[str, ScoreFn]) -> ScoreTable:
    """Make the models of a source and score them on its splits."""
    start = time.perf_counter()
    vectors_MD = source.make()
    scores = {split: score_fns[split](vectors_MD) for split in source.splits}
    return ScoreTable(source.name, vectors_MD.numpy(), scores, "", time.perf_counter() - start)
