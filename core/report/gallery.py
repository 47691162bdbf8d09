"""The figures of a run, and how to read each: arrays in, PNG and SVG out.

M models · K originals · D numbers in one vector · S models of a matrix.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from core.evaluation.kinds import GENERATED, ORIGINAL
from core.evaluation.metrics import iou_matrix, l2_matrix, max_iou
from core.report import behavior_figures, weight_figures
from core.report.run_files import RunFiles
from core.report.style import save

MOST_IN_MATRIX = 40  # models per source in the IoU matrix
MOST_POINTS = 400  # of all sources in one map: t-SNE takes a few seconds for that many
NUM_PAIRS, NUM_WEIGHTS, NUM_DENSITIES = 4, 96, 6
SEED = 0  # of every choice of what to show, so that a rebuilt report is the same report


@dataclass(frozen=True)
class Exhibit:
    """One figure, saved, with the sentence that says how to read it."""

    name: str
    title: str
    caption: str
    png: Path
    svg: Path


Drawn = tuple[str, str, str, Callable[[], Figure]]  # name, title, caption, what draws it


def draw_all(run: RunFiles, folder: Path) -> list[Exhibit]:
    """Draw and save every figure that the run's files give; what cannot be drawn joins the run's problems.

    Figures of an earlier report that this one does not have are removed: they would show other numbers.
    """
    exhibits = []
    for name, title, caption, draw in planned(run):
        try:
            files = save(draw(), folder, name)
        except (ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
            # These come from numbers that no figure can show.
            run.note(f"the figure “{title}” could not be drawn ({error})")
            continue
        exhibits.append(Exhibit(name, title, caption, files["png"], files["svg"]))
    current = {path for exhibit in exhibits for path in (exhibit.png, exhibit.svg)}
    for stale in {*folder.glob("*.png"), *folder.glob("*.svg")} - current:
        stale.unlink()
    return exhibits


def planned(run: RunFiles) -> Iterator[Drawn]:
    """Yield the figures in the order of the page."""
    if ORIGINAL in run.tables:
        if any(table.scores["test"].wrong_MN is not None for table in run.tables.values()):
            yield from similarity_figures(run)
        yield from distance_figures(run)
    elif run.tables:
        run.note("without the scores of original, nothing can be compared with them: most figures are left out")
    if run.tables:
        yield from position_figures(run)
    yield from history_figures(run)


def similarity_figures(run: RunFiles) -> Iterator[Drawn]:
    """Yield the figures of the errors that models make."""
    wrong = {source: table.scores["test"].known_wrong() for source, table in run.tables.items()}
    originals = wrong[ORIGINAL]
    if len(originals) < 2:  # an original alone has no other to be compared with
        del wrong[ORIGINAL]
    iou = {source: max_iou(wrong_MN, originals, same=source == ORIGINAL) for source, wrong_MN in wrong.items()}
    accuracy = {source: run.tables[source].scores["test"].accuracy_M for source in wrong}
    yield (
        "accuracy_vs_max_iou",
        "Good and new?",
        "Each dot is a model and each large marker the mean of a source: "
        "further up is better, further left is less like any original.",
        lambda: behavior_figures.accuracy_vs_iou(accuracy, iou),
    )
    yield (
        "max_iou",
        "Similarity to the nearest original",
        "How the largest share of common mistakes with any original is distributed over models (black tick: median): "
        "further left is newer, 1 is a copy in behavior.",
        lambda: behavior_figures.ridges(iou, "maximum IoU with an original"),
    )
    shown = {source: subsample(wrong_MN, MOST_IN_MATRIX) for source, wrong_MN in wrong.items() if len(wrong_MN) > 1}
    if shown:
        yield (
            "iou_matrix",
            "Who errs alike",
            f"IoU of wrong test images for every pair of models, at most {MOST_IN_MATRIX} a source: "
            "a bright block on the diagonal is a source of models that are all alike, "
            "a bright block beside it two sources that behave alike.",
            lambda: heat_map(shown),
        )


def heat_map(wrong: dict[str, np.ndarray]) -> Figure:
    """Draw the matrix over all models of all sources."""
    stacked = np.concatenate(list(wrong.values()))
    return behavior_figures.iou_heat_map(
        iou_matrix(stacked, stacked), list(wrong), [len(wrong_MN) for wrong_MN in wrong.values()]
    )


def distance_figures(run: RunFiles) -> Iterator[Drawn]:
    """Yield the figures of the distance between the weights and those of the originals."""
    originals_KD = run.tables[ORIGINAL].vectors_MD
    if len(originals_KD) < 2:
        return
    distances = {source: l2_matrix(table.vectors_MD, originals_KD) for source, table in run.tables.items()}
    np.fill_diagonal(distances[ORIGINAL], np.inf)
    smallest = float(distances[ORIGINAL].min())
    yield (
        "min_l2",
        "Distance to the nearest original",
        "How the Euclidean distance to the nearest original is distributed over models (black tick: median): "
        "left of the dashed line, a model is closer to an original than any two originals are to each other.",
        lambda: behavior_figures.ridges(
            {source: distance_MK.min(1) for source, distance_MK in distances.items()},
            "minimum L2 distance to an original",
            (smallest, "smallest distance between two originals"),
        ),
    )
    if GENERATED in run.tables:
        yield (
            "weights_over_nearest",
            "Generated weights over their nearest originals",
            "Each pair of rows is a model and the original nearest to it, "
            "from the closest generated model to the farthest, then two originals for scale: "
            "rows that match are copies.",
            lambda: weight_figures.over_nearest(nearest_pairs(run, distances)),
        )
    yield from density_figures(run)


def nearest_pairs(run: RunFiles, distances: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray, str, np.ndarray]]:
    """Return generated models from the closest to the farthest, then two originals, each with its nearest original."""
    originals_KD = run.tables[ORIGINAL].vectors_MD
    mean_D, spread_D = originals_KD.mean(0), originals_KD.std(0)
    shown = np.sort(np.random.default_rng(SEED).permutation(np.flatnonzero(spread_D > 0))[:NUM_WEIGHTS])
    if not len(shown):
        raise ValueError("all originals are the same")
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


def density_figures(run: RunFiles) -> Iterator[Drawn]:
    """Yield the densities of single weights, of the sources that claim to follow the originals' distribution."""
    samples = {
        source: run.tables[source].vectors_MD for source in (ORIGINAL, GENERATED, "gaussian") if source in run.tables
    }
    varying = np.logical_and.reduce([vectors_MD.std(0) > 0 for vectors_MD in samples.values()])
    chosen = np.sort(np.random.default_rng(SEED).permutation(np.flatnonzero(varying))[:NUM_DENSITIES])
    if len(chosen):
        yield (
            "weight_densities",
            "Distribution of single weights",
            "The density of a few weights chosen at random: a curve narrower than the originals' has lost diversity, "
            "one that the Gaussian matches needs no diffusion.",
            lambda: weight_figures.weight_densities(
                {source: vectors_MD[:, chosen] for source, vectors_MD in samples.items()}, chosen.tolist()
            ),
        )


def position_figures(run: RunFiles) -> Iterator[Drawn]:
    """Yield PCA and t-SNE, of weights and of latents."""
    yield from maps_of("weight", {source: table.vectors_MD for source, table in run.tables.items()})
    yield from maps_of(
        "latent",
        {source: table.latents_ML for source, table in run.tables.items() if table.latents_ML is not None},
    )


def maps_of(space: str, vectors: Mapping[str, np.ndarray]) -> Iterator[Drawn]:
    """Yield PCA and t-SNE of one space; none where sources are not of one space, or have too few models."""
    if len({vectors_MD.shape[1] for vectors_MD in vectors.values()}) != 1:
        return
    share = -(-MOST_POINTS // len(vectors))
    shown = {source: subsample(vectors_MD, share) for source, vectors_MD in vectors.items()}
    if sum(map(len, shown.values())) < 5:
        return
    components_PC, explained_C = weight_figures.principal_components(np.concatenate(list(shown.values())), SEED)
    yield (
        f"pca_{space}s",
        f"PCA in {space} space",
        f"The two directions of {space} space in which models differ most: "
        "sources that overlap come from similar distributions, a tight cloud is a source with little diversity.",
        lambda: weight_figures.positions(
            by_source(components_PC[:, :2], shown),
            *(f"component {n + 1} ({100 * explained_C[n]:.0f} % of the variance)" for n in (0, 1)),
            ticks=True,
        ),
    )
    yield (
        f"tsne_{space}s",
        f"t-SNE in {space} space",
        f"Models that are close here are neighbors in {space} space; "
        "distances between separate groups and their sizes mean nothing.",
        lambda: weight_figures.positions(
            by_source(weight_figures.neighbor_map(components_PC, SEED), shown), "t-SNE 1", "t-SNE 2", ticks=False
        ),
    )


def by_source(points_P2: np.ndarray, shown: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Split the rows among the sources that they came from."""
    ends = np.cumsum([len(vectors_MD) for vectors_MD in shown.values()])
    return dict(zip(shown, np.split(points_P2, ends[:-1]), strict=True))


def history_figures(run: RunFiles) -> Iterator[Drawn]:
    """Yield how weights came about: along the reverse diffusion, and through classifier training."""
    if (followed := run.trajectories) is not None:
        yield (
            "reverse_diffusion",
            "Accuracy along the reverse diffusion",
            "Noise on the left becomes weights on the right: "
            "how soon the lines meet tells how much of the way decides the accuracy.",
            lambda: behavior_figures.accuracy_along_diffusion(followed.timesteps_S, followed.accuracy_TS),
        )
    if (history := run.training_history) is not None:
        yield (
            "training_history",
            "The subset through classifier training",
            "Each row is a weight that p-diff learns to generate, ordered within its tensor by the final value: "
            "columns that stop changing are weights that have settled.",
            lambda: weight_figures.training_heat_map(history.history_ED, history.names, history.sizes),
        )


def subsample(rows: np.ndarray, most: int) -> np.ndarray:
    """Choose at most so many rows at random from a fixed seed, in their order."""
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:most])
    return rows[chosen]
