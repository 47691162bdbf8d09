"""Scoring of all sources, with one table each. A stored table of the same settings is reused."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from core.evaluation.kinds import DEEP_ENSEMBLE, GENERATED, Kind, name_soup
from core.evaluation.scores import ScoreFn, Scores, ScoreTable
from core.evaluation.soup import list_soups
from core.evaluation.sources import Material, Source, UnavailableSource, list_sources
from core.evaluation.store import Identity, ScoreStore
from core.evaluation.trajectories import RECORDED_STEPS, record_trajectories
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from core.runtime.source_code import digest_code, locate
from core.runtime.stage_progress import StageProgress

log = logging.getLogger(__name__)
Progress = Callable[[Iterable[Source]], Iterable[Source]]
VAL = "val"
BACKWARD = 2  # cost of the backward pass of a training step, in forward passes
# A rough guess of the share of a run's scoring time that the trajectories take.
TRAJECTORIES_SHARE = 0.1
GENERATOR_CODE = (  # the source code that samples models, and that encodes and decodes vectors
    "core/checkpoints/normalizer.py",
    "core/diffusion/*.py",
    "core/generation/generator.py",
    "core/generation/generator_file.py",
    "core/generation/latent_diffusion.py",
    "core/generation/recipes.py",
    "core/networks/*.py",
    "core/runtime/seeding.py",
)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Functions of the task that score vectors, sources that it trains, and whether stored tables are reused."""

    score_fns: Mapping[str, ScoreFn]  # scoring functions of the splits "train", "val" and "test"
    # Scoring functions of sets of images that belong to no class, by the name of the set.
    ood_fns: Mapping[str, ScoreFn] = field(default_factory=dict)
    num_images: Mapping[str, int]  # images of each split and set, which decide the cost of scoring one model
    further: Sequence[Source] = ()  # sources that the task makes by training, such as fine-tuned checkpoints
    # Settings that decide the scores of given vectors, such as the images and the precision, and digests of the source
    # code that scores. A table of other settings or other code is not reused.
    settings: Mapping[str, Any]
    code: Mapping[str, str]
    reuse: bool  # whether tables on disk are reused


def score_run(
    material: Material, scoring: Scoring, run: RunDirectory, *, progress: StageProgress
) -> dict[str, ScoreTable]:
    """Score every source of a run, and save the trajectories and the training history that the figures show."""
    has_steps, num_trajectories = material.generator.has_steps, material.options.num_trajectories
    with progress.part(1 - TRAJECTORIES_SHARE if has_steps else 1):
        tables = evaluate(
            [*list_sources(material), *scoring.further],
            scoring.score_fns,
            open_store(material, scoring, run),
            ood_fns=scoring.ood_fns,
            soup_candidates=material.options.soup_candidates,
            progress=partial(
                progress.track, work=partial(count_images, material, scoring), name=lambda source: source.name
            ),
        )
    if has_steps:
        num_images = RECORDED_STEPS * num_trajectories * scoring.num_images[VAL]
        with progress.part(TRAJECTORIES_SHARE, units=num_images, name="trajectories"):
            trajectories = record_trajectories(
                material.generator, scoring.score_fns[VAL], seed=material.seed, num_trajectories=num_trajectories
            )
        trajectories.save(run.trajectories)
    material.checkpoints.save_history(run.training_history)
    return tables


def open_store(material: Material, scoring: Scoring, run: RunDirectory) -> ScoreStore:
    """Return the store of a run's score tables, whose identity covers everything that the scores depend on."""
    common = {
        **scoring.settings,
        "checkpoints": material.checkpoints.fingerprint,
        "seed": material.seed,
        # The size of the deep ensemble decides no other source.
        "evaluation": {name: value for name, value in asdict(material.options).items() if name != DEEP_ENSEMBLE},
    }
    generator = {
        "fingerprint": material.generator.fingerprint,
        "num_models": len(material.generated_MD),
        "code": digest_code(GENERATOR_CODE),
    }
    return ScoreStore(
        run,
        Identity(common=common, generator=generator, code={**scoring.code, **digest_code([locate(score_source)])}),
        encode=material.generator.encode,
        checkpoints=material.checkpoints.path,
        subset=material.checkpoints.subset,
        reuse=scoring.reuse,
    )


def evaluate(
    base_sources: Sequence[Source],
    score_fns: Mapping[str, ScoreFn],
    store: ScoreStore,
    *,
    soup_candidates: int,
    ood_fns: Mapping[str, ScoreFn] | None = None,
    progress: Progress = iter,
) -> dict[str, ScoreTable]:
    """Return one table per source, each saved as soon as it is scored.

    The greedy soups of the originals and of the generated models come last, because they are made from the validation
    scores of these models.

    Args:
        base_sources: All sources except the soups.
        score_fns: Scoring functions by split.
        store: Storage that is searched for tables and saves new ones.
        soup_candidates: Maximum number of models that a soup tries.
        ood_fns: Scoring functions of images that belong to no class, by the name of the set.
        progress: Wraps the sources that have to be scored, to show how many are done.
    """
    tables: dict[str, ScoreTable] = {}
    every = [*base_sources, *list_soups(tables, score_fns[VAL], soup_candidates)]
    tables.update(store.find(every))
    for source in progress([source for source in every if source.name not in tables]):
        try:
            table = score_source(source, score_fns, ood_fns or {})
        except UnavailableSource as reason:
            log.info("%s is left out: %s", source.name, reason)
            continue
        for split, scores in table.scores.items():
            check_for_nan(source.name, split, scores)
        tables[source.name] = store.put(source, table)
    return {source.name: tables[source.name] for source in every if source.name in tables}


def count_images(material: Material, scoring: Scoring, source: Source) -> int:
    """Return the cost of scoring a source: the images that its models see, counted once for each model."""
    seen = [*source.splits, *(scoring.ood_fns if VAL in source.splits else ())]
    count = source.num_models * sum(scoring.num_images[name] for name in seen)
    if source.kind is Kind.SOUP:
        generated = source.name == name_soup(GENERATED)
        num_candidates = len(material.generated_MD) if generated else len(material.checkpoints)
        num_tried = min(num_candidates, material.options.soup_candidates) - 1  # the first candidate is scored already
        count += num_tried * scoring.num_images[VAL]
    return count + source.num_models * (1 + BACKWARD) * source.training_images


def list_costs(material: Material, scoring: Scoring) -> dict[str, float]:
    """Return the gradient evaluations that one model of each source costs, for the sources where they are known."""
    every = [*list_sources(material), *scoring.further, *list_soups({}, scoring.score_fns[VAL], num_candidates=0)]
    return {source.name: source.gradient_evaluations for source in every if source.gradient_evaluations is not None}


def score_source(
    source: Source, score_fns: Mapping[str, ScoreFn], ood_fns: Mapping[str, ScoreFn] | None = None
) -> ScoreTable:
    """Make the models of a source and score them on its splits and on the images that belong to no class.

    Validation comes first, because it gives the temperatures of the votes on all other images. A source that does not
    vote on validation is not scored on images that belong to no class. The scoring functions of a source with its own
    ones may include these sets of images.
    """
    start = time.perf_counter()
    vectors_MD = source.make()
    fns = source.score_fns or {**score_fns, **(ood_fns or {})}
    scores: dict[str, Scores] = {}
    temperatures: tuple[np.ndarray, ...] = ()  # one array as soon as validation gave it
    for split in sorted(source.splits, key=lambda split: split != VAL):
        scores[split] = fns[split](vectors_MD, *temperatures)
        if split == VAL and (votes := scores[VAL].votes) and votes.fitted_P is not None:
            temperatures = (votes.fitted_P,)
    ood = {}
    for name in ood_fns or {}:
        if temperatures and name in fns and (votes := fns[name](vectors_MD, *temperatures).votes):
            ood[name] = votes.confidence_PN
    kept_MD = vectors_MD if source.columns_D is None else vectors_MD[:, source.columns_D]
    return ScoreTable(source.name, kept_MD.numpy(), scores, "", time.perf_counter() - start, ood=ood)


def check_for_nan(source: str, split: str, scores: Scores) -> None:
    """Check that every model has a primary metric, and log which models give NaN instead of predictions on a split.

    Raises:
        UserError: The primary metric of a model is not finite, so means over the models are undefined.
    """
    broken = np.flatnonzero(np.isnan(scores.loss_M))
    if len(undefined := np.flatnonzero(~np.isfinite(scores.accuracy_M))):
        name = scores.metric.name
        raise UserError(
            f"{source}: {name} on {split} is not finite for {len(undefined)} of {len(scores.accuracy_M)} models "
            f"({format_numbers(undefined)}), so no mean is defined. Let the scores of the task give the worst possible "
            f"{name} to a model whose predictions are NaN"
        )
    if len(broken):
        log.warning(
            "%s: %d of %d models give NaN on %s (%s). These predictions count as wrong%s",
            source,
            len(broken),
            len(scores.loss_M),
            split,
            format_numbers(broken),
            ", and the soft vote leaves them out" if scores.votes is not None else "",
        )


def format_numbers(numbers: np.ndarray, most: int = 5) -> str:
    """Return the first numbers as text, such as "models 3, 17 and 4 more"."""
    shown = ", ".join(str(number) for number in numbers[:most])
    more = len(numbers) - most
    return f"models {shown}" + (f" and {more} more" if more > 0 else "")
