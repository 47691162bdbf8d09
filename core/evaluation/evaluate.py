"""Scores of every source: one table each, taken from disk where the same question was answered before."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from core.evaluation.scores import ScoreFn, ScoreTable
from core.evaluation.soup import soups
from core.evaluation.sources import Material, Source, sources
from core.evaluation.store import Identity, ScoreStore
from core.evaluation.trajectories import follow
from core.runtime.run_directory import RunDirectory

Progress = Callable[[Iterable[Source]], Iterable[Source]]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Everything that the task knows of vectors, and whether earlier answers count."""

    score_fns: Mapping[str, ScoreFn]  # by split: "train", "val", "test"
    finetune: Callable[[Tensor], Tensor]  # trains vectors (M, D) on
    precision: str  # of the arithmetic; tables of another precision are not taken
    reuse: bool  # whether tables on disk are taken


def score_run(
    material: Material, scoring: Scoring, run: RunDirectory, *, progress: Progress = iter
) -> dict[str, ScoreTable]:
    """Score every source of a run; what the figures need besides the tables is saved with them."""
    tables = evaluate(
        sources(material, scoring.finetune),
        scoring.score_fns,
        store_of(material, scoring, run),
        soup_candidates=material.options.soup_candidates,
        progress=progress,
    )
    if material.generator.has_steps:
        count = material.options.num_trajectories
        followed = follow(material.generator, scoring.score_fns["val"], seed=material.seed, num_trajectories=count)
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
        progress: iterates over the sources under a progress bar.
    """
    tables: dict[str, ScoreTable] = {}
    for source in progress([*given, *soups(tables, score_fns["val"], soup_candidates)]):
        table = store.get(source)
        tables[source.name] = store.put(source, scored(source, score_fns)) if table is None else table
    return tables


def scored(source: Source, score_fns: Mapping[str, ScoreFn]) -> ScoreTable:
    """Make the models of a source, and score them on its splits."""
    start = time.perf_counter()
    vectors_MD = source.make()
    scores = {split: score_fns[split](vectors_MD) for split in source.splits}
    return ScoreTable(source.name, vectors_MD.numpy(), scores, "", time.perf_counter() - start)
