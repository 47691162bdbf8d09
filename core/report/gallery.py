"""The figures that the files of a run allow, drawn from their arrays and saved as PNG and SVG.

M models · K originals · D numbers in one vector · L numbers in one latent · N test images · P points in a map.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from core.evaluation.kinds import GENERATED, ORIGINAL, Kind
from core.evaluation.metrics import iou_matrix, l2_matrix, max_iou
from core.evaluation.positions import locate_models
from core.evaluation.yardstick import pair_originals
from core.report import behavior_figures, weight_figures
from core.report.captions import Caption, write_caption
from core.report.metric_words import MetricWords
from core.report.run_files import RunFiles
from core.report.style import save
from core.report.verdict_figure import draw_differences
from core.report.worth_figure import draw_worth, draw_worth_measures
from core.report.worth_table import find_groups

MOST_IN_MATRIX = 20  # models per source in the IoU matrix
MOST_POINTS = 400  # points in one map; t-SNE takes a few seconds for so many points
NUM_PAIRS, NUM_WEIGHTS, NUM_DENSITIES = 4, 96, 6
WORTH_FIGURES = ("worth", "worth_measures")  # the figures of the section on models that vote together
SEED = 0  # the seed of every random choice, so that a rebuilt report is identical


@dataclass(frozen=True)
class Exhibit:
    """One saved figure and the words beside it."""

    name: str
    caption: Caption
    png: Path
    svg: Path


PlannedFigure = tuple[str, Callable[[], Figure]]  # the name of a figure, and the function that draws it


def draw_all(run: RunFiles, folder: Path) -> list[Exhibit]:
    """Draw and save every figure that the run's files allow, and note each failure in the run's problems.

    Figures of an earlier report are removed if this report lacks them, because they would show outdated numbers.
    """
    exhibits = []
    for name, draw in plan_figures(run):
        caption = write_caption(name, MetricWords.read(run.metrics))
        try:
            files = save(draw(), folder, name)
        except (ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
            # Degenerate numbers, such as those of a diverged model, must not prevent the rest of the report.
            run.note(f"the figure {caption.title!r} could not be drawn ({error})")
            continue
        exhibits.append(Exhibit(name, caption, files["png"], files["svg"]))
    current = {path for exhibit in exhibits for path in (exhibit.png, exhibit.svg)}
    for stale in {*folder.glob("*.png"), *folder.glob("*.svg")} - current:
        stale.unlink()
    return exhibits


def plan_figures(run: RunFiles) -> Iterator[PlannedFigure]:
    """Yield the figures in the order of the page; the first one stands beside the verdict."""
    if (verdict := run.verdict) is not None and verdict.comparisons:
        yield "differences", lambda: draw_differences(verdict.comparisons, MetricWords(verdict.metric))
    positions = {source: table.vectors_MD for source, table in locate_models(run.tables).items()}
    if ORIGINAL in run.tables:
        if any(table.scores["test"].wrong_MN is not None for table in run.tables.values()):
            yield from plan_similarity_figures(run, positions)
        yield from plan_distance_figures(run, positions)
    elif run.tables:
        run.note(
            "the scores of original are missing, and with them most figures, because they compare models with the "
            "originals"
        )
    if run.tables:
        yield from plan_maps(run, positions)
    yield from plan_history_figures(run)
    if worth := run.metrics.get("worth"):
        groups = find_groups(run.metrics)
        yield WORTH_FIGURES[0], lambda: draw_worth(worth, groups)
        yield WORTH_FIGURES[1], lambda: draw_worth_measures(worth, groups)


def plan_similarity_figures(run: RunFiles, positions: Mapping[str, np.ndarray]) -> Iterator[PlannedFigure]:
    """Yield the figures of the errors that models make; `positions` are those of the models in weights, by source."""
    wrong = {source: table.scores["test"].require_wrong() for source, table in run.tables.items()}
    originals = wrong[ORIGINAL]
    if len(originals) < 2:  # A single original cannot be compared with another one.
        del wrong[ORIGINAL]
    # The origins of the checkpoints are not among the files of a run. Rows in the order of their steps show the same.
    apart = {ORIGINAL: pair_originals(positions[ORIGINAL], None).apart_KK}
    iou = {source: max_iou(wrong_MN, originals, apart.get(source)) for source, wrong_MN in wrong.items()}
    accuracy = {source: run.tables[source].scores["test"].accuracy_M for source in wrong}
    words = MetricWords.read(run.metrics)
    yield "accuracy_vs_max_iou", lambda: behavior_figures.draw_accuracy_over_iou(accuracy, iou, words)
    yield "max_iou", lambda: behavior_figures.draw_ridges(iou, "maximum IoU with an original (← newer, 1: same errors)")
    shown = {source: subsample(wrong_MN, MOST_IN_MATRIX) for source, wrong_MN in wrong.items() if len(wrong_MN) > 1}
    if shown:
        yield "iou_matrix", lambda: draw_matrix(shown)


def draw_matrix(wrong: dict[str, np.ndarray]) -> Figure:
    """Draw the IoU of all pairs of these models, given the wrong images (M, N) by source."""
    stacked = np.concatenate(list(wrong.values()))
    return behavior_figures.draw_iou_matrix(
        iou_matrix(stacked, stacked), list(wrong), [len(wrong_MN) for wrong_MN in wrong.values()]
    )


def plan_distance_figures(run: RunFiles, positions: Mapping[str, np.ndarray]) -> Iterator[PlannedFigure]:
    """Yield the figures of how far the weights lie from those of the originals, given all positions by source."""
    if len(positions[ORIGINAL]) < 2:
        return
    distances = {source: l2_matrix(models, positions[ORIGINAL]) for source, models in positions.items()}
    np.fill_diagonal(distances[ORIGINAL], np.inf)
    smallest = float(distances[ORIGINAL].min())
    yield (
        "min_l2",
        lambda: behavior_figures.draw_ridges(
            {source: distance_MK.min(1) for source, distance_MK in distances.items()},
            "L2 distance to the nearest original",
            (smallest, "smallest distance between two originals"),
        ),
    )
    if GENERATED in run.tables:
        yield "weights_over_nearest", lambda: weight_figures.draw_nearest_pairs(find_nearest_pairs(run, distances))
    yield from plan_densities(run)


def find_nearest_pairs(
    run: RunFiles, distances: dict[str, np.ndarray]
) -> list[tuple[str, np.ndarray, str, np.ndarray]]:
    """Return models with their nearest originals: generated ones from the closest to the farthest, then two originals.

    Args:
        run: The files of the run, which hold the weights.
        distances: Distances between models and originals (M, K), by source.

    Returns:
        (name, weights, name of the original, its weights) per pair, in standard deviations from the originals' mean.

    Raises:
        ValueError: All originals are equal.
    """
    originals_KD = run.tables[ORIGINAL].vectors_MD
    mean_D, spread_D = originals_KD.mean(0), originals_KD.std(0)
    shown = np.sort(np.random.default_rng(SEED).permutation(np.flatnonzero(spread_D > 0))[:NUM_WEIGHTS])
    if not len(shown):
        raise ValueError("all originals are equal")
    pairs = []
    for source, count in ((GENERATED, NUM_PAIRS), (ORIGINAL, 2)):
        order = np.argsort(distances[source].min(1), kind="stable")
        for model in order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))]:
            nearest = int(distances[source][model].argmin())
            rows = (
                (vector_D - mean_D)[shown] / spread_D[shown]
                for vector_D in (run.tables[source].vectors_MD[model], originals_KD[nearest])
            )
            pairs.append((f"{source} {model}", next(rows), f"{ORIGINAL} {nearest}", next(rows)))
    return pairs


def plan_densities(run: RunFiles) -> Iterator[PlannedFigure]:
    """Yield the figure of the densities of single weights, for sources that should follow those of the originals."""
    samples = {
        source: run.tables[source].vectors_MD for source in (ORIGINAL, GENERATED, "gaussian") if source in run.tables
    }
    varying = np.logical_and.reduce([vectors_MD.std(0) > 0 for vectors_MD in samples.values()])
    chosen = np.sort(np.random.default_rng(SEED).permutation(np.flatnonzero(varying))[:NUM_DENSITIES])
    if len(chosen):
        yield (
            "weight_densities",
            lambda: weight_figures.draw_densities(
                {source: vectors_MD[:, chosen] for source, vectors_MD in samples.items()}, chosen.tolist()
            ),
        )


def plan_maps(run: RunFiles, positions: Mapping[str, np.ndarray]) -> Iterator[PlannedFigure]:
    """Yield the PCA and t-SNE maps of weights, given their positions by source, and of latents."""
    # A greedy soup is one more mean of the models that the maps show already.
    mapped = {source: table for source, table in run.tables.items() if table.kind is not Kind.SOUP}
    latents = {source: table.latents_ML for source, table in mapped.items() if table.latents_ML is not None}
    yield from plan_maps_of("weights", {source: positions[source] for source in mapped})
    yield from plan_maps_of("latents", latents)


def plan_maps_of(space: str, vectors: Mapping[str, np.ndarray]) -> Iterator[PlannedFigure]:
    """Yield the PCA and t-SNE maps of one space; yield nothing if vectors differ in length or are fewer than 5."""
    if len({vectors_MD.shape[1] for vectors_MD in vectors.values()}) != 1:
        return
    share = -(-MOST_POINTS // len(vectors))
    shown = {source: subsample(vectors_MD, share) for source, vectors_MD in vectors.items()}
    if sum(map(len, shown.values())) < 5:
        return
    components_PC, explained_C = weight_figures.principal_components(np.concatenate(list(shown.values())), SEED)
    yield (
        f"pca_{space}",
        lambda: weight_figures.draw_positions(
            split_by_source(components_PC[:, :2], shown),
            *(f"component {n + 1} ({100 * explained_C[n]:.0f}% of the variance)" for n in (0, 1)),
            ticks=True,
        ),
    )
    yield (
        f"tsne_{space}",
        lambda: weight_figures.draw_positions(
            split_by_source(weight_figures.map_neighbors(components_PC, SEED), shown), "t-SNE 1", "t-SNE 2", ticks=False
        ),
    )


def split_by_source(points_P2: np.ndarray, shown: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the points (M, 2) of each source, given the points of all sources in the order of `shown`."""
    ends = np.cumsum([len(vectors_MD) for vectors_MD in shown.values()])
    return dict(zip(shown, np.split(points_P2, ends[:-1]), strict=True))


def plan_history_figures(run: RunFiles) -> Iterator[PlannedFigure]:
    """Yield the figure of the steps of generation and the figure of the epochs of classifier training."""
    if (trajectories := run.trajectories) is not None:
        yield (
            "reverse_diffusion",
            lambda: behavior_figures.draw_accuracy_along_diffusion(
                trajectories.timesteps_S, trajectories.accuracy_TS, MetricWords.read(run.metrics)
            ),
        )
    if (history := run.training_history) is not None:
        yield (
            "training_history",
            lambda: weight_figures.draw_training_history(history.history_ED, history.names, history.sizes),
        )


def subsample(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` rows, chosen at random with a fixed seed, in their order."""
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:most])
    return rows[chosen]
