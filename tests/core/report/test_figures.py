"""Figures hold the numbers that they were given, differ in print, and keep legends and labels off each other."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.markers import MarkerStyle
from scipy.integrate import trapezoid

from core.evaluation.groups import Group
from core.evaluation.verdict import Comparison, Decision, Difference, Doubt, Standing
from core.report import behavior_figures, weight_figures
from core.report.gallery import find_nearest_pairs, subsample
from core.report.run_files import RunFiles, read_run
from core.report.style import WEIGHT_COLORS, save, source_styles
from core.report.sweep_figure import LINE_LOOKS, MEASURES, Point, draw_sweep, line_look
from core.report.verdict_figure import LOOKS, draw_differences
from core.report.worth_figure import choose_main_sources, draw_worth, draw_worth_measures

SOURCES = ["original", "ensemble", "p_diff", "noised_0.05", "noised_0.15", "average_16", "gaussian"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def by_source(rng, low=0.7, high=0.9) -> dict[str, np.ndarray]:
    return {source: rng.uniform(low, high, 1 if source == "ensemble" else 12) for source in SOURCES}


def test_every_model_is_a_dot_and_every_mean_a_marker(rng):
    accuracy, iou = by_source(rng, 0.8, 0.9), by_source(rng)
    axes = behavior_figures.draw_accuracy_over_iou(accuracy, iou).axes[0]
    drawn = [np.asarray(collection.get_offsets()) for collection in axes.collections]
    clouds, means = drawn[: len(SOURCES) - 1], drawn[len(SOURCES) - 1 :]
    many = [source for source in SOURCES if source != "ensemble"]
    for source, cloud in zip(many, clouds, strict=True):
        np.testing.assert_allclose(cloud, np.stack([iou[source], 100 * accuracy[source]], 1))
    for source, mean in zip(SOURCES, means, strict=True):
        np.testing.assert_allclose(mean, [[iou[source].mean(), 100 * accuracy[source].mean()]])
    assert "%" in axes.get_ylabel()


def test_histograms_count_every_model_and_mark_the_median(rng):
    values = by_source(rng)
    axes = behavior_figures.draw_ridges(values, "maximum IoU").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == SOURCES[::-1]
    medians = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert medians == pytest.approx([float(np.median(values[source])) for source in SOURCES[::-1]])
    heights = axes.patches[0].get_data().values - axes.patches[0].get_data().baseline
    assert heights.max() == pytest.approx(0.85) and (heights > 0).sum() <= 12


@pytest.mark.parametrize(
    "pooled, scale",
    [
        ([0.1, 0.2], "linear"),
        ([0.001, 0.5], "log"),
        ([0.0, 0.5], "linear"),
        ([1.0, 1.0], "linear"),
        ([0.0, 0.0], "linear"),
        ([-1.0, 50], "linear"),
    ],
)
def test_the_scale_fits_the_values_and_holds_all_of_them(pooled, scale):
    edges, chosen = behavior_figures.choose_bins(np.array(pooled))
    assert chosen == scale and edges[0] < min(pooled) and edges[-1] > max(pooled) and (np.diff(edges) > 0).all()
    behavior_figures.draw_ridges({"original": np.array(pooled)}, "x")


def test_the_matrix_is_shown_unchanged_in_blocks_of_sources(rng):
    iou_SS = rng.uniform(0.5, 1, (7, 7))
    drawn = behavior_figures.draw_iou_matrix(iou_SS, ["original", "p_diff"], [3, 4])
    axes = drawn.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), iou_SS)
    assert axes.get_xticks().tolist() == [1.0, 4.5] and [line.get_xdata()[0] for line in axes.lines[1::2]] == [2.5]


def test_the_reverse_diffusion_runs_from_noise_on_the_left_to_weights_on_the_right():
    accuracy_TS = np.array([[0.1, 0.5, 0.9], [0.2, 0.4, 0.8]])
    axes = behavior_figures.draw_accuracy_along_diffusion(np.array([999, 500, 0]), accuracy_TS).axes[0]
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
    np.testing.assert_allclose(
        [line.get_ydata() for line in axes.lines], 100 * np.array([*accuracy_TS, accuracy_TS.mean(0)])
    )


def test_history_keeps_each_tensor_in_its_own_units(rng):
    history_ED = np.concatenate([1000 + rng.normal(size=(5, 3)), 0.001 * rng.normal(size=(5, 60))], axis=1)
    axes = weight_figures.draw_training_history(history_ED, ["scale", "bias"], [3, 60]).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (3 + weight_figures.MOST_ROWS, 5)
    assert shown[:3].std() == pytest.approx(1) and shown[3:].std() == pytest.approx(1, abs=0.3)
    assert (np.diff(shown[:3, -1]) >= 0).all() and (np.diff(shown[3:, -1]) >= 0).all(), "not ordered by the final value"
    constant = weight_figures.draw_training_history(np.ones((4, 2)), ["a"], [2])
    assert not np.asarray(constant.axes[0].images[0].get_array()).any()


def test_densities_integrate_to_one(rng):
    samples = {source: rng.normal(size=(200, 2)) for source in ("original", "p_diff", "gaussian")}
    drawn = weight_figures.draw_densities(samples, [3, 9])
    for axes in drawn.axes:
        for line in axes.lines:
            assert trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1, abs=0.02)
    assert [axes.get_title() for axes in drawn.axes] == ["weight number 3", "weight number 9"]


def test_principal_components_are_those_of_the_plain_decomposition(rng):
    vectors = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 50)) + 5
    components, explained = weight_figures.principal_components(vectors, seed=0)
    singular = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    np.testing.assert_allclose(explained[:2], singular[:2] ** 2 / (singular**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(components[3] - components[8]), np.linalg.norm(vectors[3] - vectors[8]), rtol=1e-6
    )


def test_neighbors_stay_neighbors_and_the_map_is_the_same_each_time(rng):
    groups = np.repeat(np.eye(3) * 50, 8, axis=0) + rng.normal(size=(24, 3))
    points = weight_figures.map_neighbors(groups, seed=0)
    nearest = np.argsort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, 1]
    assert (nearest // 8 == np.arange(24) // 8).all()
    np.testing.assert_array_equal(points, weight_figures.map_neighbors(groups, seed=0))


def test_a_copy_is_paired_with_what_it_copies(run):
    files = read_run(run)
    originals, made = files.tables["original"].vectors_MD, files.tables["p_diff"].vectors_MD
    made[5] = originals[11]
    distances = {
        source: np.linalg.norm(vectors[:, None] - originals[None], axis=2)
        for source, vectors in (("p_diff", made), ("original", originals))
    }
    np.fill_diagonal(distances["original"], np.inf)
    pairs = find_nearest_pairs(files, distances)
    name, weights, nearest_name, nearest = pairs[0]
    assert (name, nearest_name) == ("p_diff 5", "original 11") and len(pairs) == 6
    np.testing.assert_array_equal(weights, nearest)
    apart = [np.linalg.norm(weights - nearest) for _, weights, _, nearest in pairs[:4]]
    assert apart[0] == 0 and min(apart[1:]) > 0


def test_the_figure_of_the_verdict_holds_every_difference_and_its_interval():
    better, worse = Decision.BETTER, Decision.WORSE
    comparisons = [
        Comparison(
            Standing("original", 9, 0.8), Difference(0.01, (0.005, 0.02), better), Difference(0.1, (0, 0.2), worse)
        ),
        Comparison(Standing("ensemble", 1, 0.8), Difference(-0.02, None, Decision.UNDECIDED), None),
    ]
    accuracy, iou = draw_differences(comparisons).axes
    assert dict(
        zip(accuracy.get_yticks(), (label.get_text() for label in accuracy.get_yticklabels()), strict=True)
    ) == {
        1: "original",
        0: "ensemble",
    }
    drawn = [[list(line.get_xdata()), line.get_ydata()[0]] for line in accuracy.lines if line.get_ydata()[0] in (0, 1)]
    assert drawn[:3] == [[[0.5, 2.0], 1], [[1.0], 1], [[-2.0], 0]]
    assert [list(line.get_xdata()) for line in iou.lines][:2] == [[0, 0.2], [0.1]]
    assert len({marker + inside for _, marker, inside, _ in LOOKS.values()}) == len(LOOKS), (
        "decisions must differ without colors"
    )
    assert len(draw_differences(comparisons[1:]).axes) == 1, "a panel without numbers"


def make_votes(source: str, loss: float, counts=(1, 2, 5, 20)) -> list[dict]:
    return [
        {"source": source, "n_models": count, "accuracy": 0.8 + count / 1000, "accuracy_interval": [0.7, 0.9]}
        | {
            "loss": loss - count / 1000,
            "brier": 0.3,
            "ece": 0.02,
            "aurc": 0.1,
            "disagreement": 0.1 if count > 1 else None,
        }
        | {"auroc": {"splices": 0.8}}
        for count in counts
    ]


GROUPS = {
    "original": Group.ORIGINAL,
    "p_diff": Group.GENERATED,
    "reconstructed": Group.GENERATED,
    "average_16": Group.FREE,
    "gaussian": Group.FREE,
    "ensemble": Group.FREE,
    "finetuned": Group.TRAINED,
}


def test_the_curves_of_votes_hold_every_number_and_its_interval():
    worth = [vote for source in ("original", "p_diff") for vote in make_votes(source, 0.5)]
    accuracy, likelihood = draw_worth(worth[::-1], GROUPS).axes
    lines = {line.get_label(): line for line in accuracy.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["original", "p_diff"]
    np.testing.assert_allclose(lines["p_diff"].get_xdata(), [1, 2, 5, 20], rtol=0.04)
    np.testing.assert_allclose(lines["p_diff"].get_ydata(), [80.1, 80.2, 80.5, 82])
    bars = [line.get_ydata() for line in accuracy.lines if line.get_label().startswith("_")]
    assert len(bars) == 8 and all(list(ends) == pytest.approx([70, 90]) for ends in bars)
    np.testing.assert_allclose(likelihood.lines[0].get_ydata(), [-0.499, -0.498, -0.495, -0.48])
    assert accuracy.get_xscale() == "log" and len(likelihood.lines) == 2, "no interval, no bar"


def test_the_main_sources_are_the_best_of_their_groups_and_never_the_reconstructed():
    losses = {
        "finetuned": 0.4,
        "gaussian": 0.3,
        "average_16": 0.2,
        "reconstructed": 0.1,
        "p_diff": 0.9,
        "original": 0.9,
    }
    worth = [vote for source, loss in losses.items() for vote in make_votes(source, loss)]
    worth += make_votes("gaussian", 0.1, counts=[1])[:1]  # A single model does not choose.
    worth += make_votes("ensemble", 0.01, counts=[1])  # A source of one model has no curve.
    assert choose_main_sources(worth, GROUPS) == ["original", "p_diff", "average_16", "finetuned"]
    assert choose_main_sources(make_votes("p_diff", 1.0), GROUPS) == ["p_diff"]
    lines = draw_worth(worth, GROUPS).axes[0].lines
    shown = [line for line in lines if not line.get_label().startswith("_")]
    assert len({line.get_linestyle() for line in shown}) == len({str(line.get_marker()) for line in shown}) == 4


def test_every_other_measure_of_a_vote_has_a_panel_and_a_missing_one_none():
    worth = make_votes("p_diff", 0.5)
    panels = draw_worth_measures(worth, GROUPS).axes
    assert [axes.get_title().split(" (")[0] for axes in panels] == [
        *("Brier score", "ECE in %", "AURC", "disagreement in %", "AUROC splices")
    ]
    np.testing.assert_allclose(panels[3].lines[0].get_xdata(), [2, 5, 20])
    bare = [{key: value for key, value in vote.items() if key not in ("auroc", "brier")} for vote in worth]
    assert len(draw_worth_measures(bare, GROUPS).axes) == 3


@pytest.mark.parametrize("doubt", Doubt)
def test_a_max_iou_that_does_not_count_has_the_look_of_its_doubt(doubt):
    lower = Difference(-0.3, (-0.4, -0.2), Decision.BETTER)
    comparison = Comparison(Standing("original", 9, 0.8), Difference(-0.1, None, Decision.WORSE), lower, doubt=doubt)
    drawn = draw_differences([comparison])
    marker, inside = drawn.axes[1].lines[1].get_marker(), drawn.axes[1].lines[1].get_markerfacecolor()
    assert (marker, inside) == LOOKS[doubt][1:3] and marker not in {LOOKS[decision][1] for decision in Decision}
    assert len({LOOKS[each][1:3] for each in Doubt}) == len({LOOKS[each][3] for each in Doubt}) == len(Doubt)
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == [LOOKS[each][3] for each in (Decision.BETTER, Decision.UNDECIDED, Decision.WORSE, doubt)]


def test_labels_of_means_cover_neither_each_other_nor_the_frame(rng):
    accuracy, iou = ({source: 0.9 + 0.002 * rng.random(3) for source in SOURCES} for _ in range(2))
    accuracy["original"], iou["original"] = rng.uniform(0.8, 1, (2, 9))  # a wide range, in which the means are close
    drawn = behavior_figures.draw_accuracy_over_iou(accuracy, iou)
    FigureCanvasAgg(drawn).draw()
    (axes,) = drawn.axes
    assert [text.get_text() for text in axes.texts] == SOURCES
    boxes = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
    shrunk = [box.padded(-2) for box in boxes]
    assert not any(one.overlaps(other) for one, other in combinations(shrunk, 2))
    frame = axes.get_window_extent().padded(2)
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in shrunk)


FURTHER = ["swag", "ema", "lawa", "continued", "held_out", "laplace", "deep_ensemble"]


def test_sources_differ_by_marker_and_lines_by_marker_or_dashes_so_that_print_needs_no_color(rng):
    styles = source_styles(
        [
            *SOURCES,
            "reconstructed",
            "gaussian_full",
            "interpolated",
            "finetuned_5",
            "finetuned_50",
            "noised_0.5",
            "new",
            *FURTHER,
        ]
    )
    shapes = {
        MarkerStyle(marker).get_path().vertices.tobytes() + MarkerStyle(marker).get_transform().get_matrix().tobytes()
        for _, marker in styles.values()
    }
    assert len(shapes) == len(styles)
    looks = [line_look(index, "p_diff_mean", joined=True) for index in range(2 * len(LINE_LOOKS))]
    assert len({look["marker"] for look in looks[: len(LINE_LOOKS)]}) == len(LINE_LOOKS)
    assert len({(look["color"], look["marker"]) for look in looks}) == len(looks)
    assert len({dashes for dashes, *_ in MEASURES.values()}) == len({fill for _, fill, _ in MEASURES.values()}) == 3
    samples = {source: rng.normal(size=(20, 1)) for source in ("original", "p_diff", "gaussian")}
    assert len({line.get_linestyle() for line in weight_figures.draw_densities(samples, [0]).axes[0].lines}) == 3


def test_heat_maps_get_steadily_brighter_so_that_they_can_be_read_in_grayscale():
    colors = matplotlib.colormaps[WEIGHT_COLORS](np.linspace(0, 1, 32))[:, :3]
    assert (np.diff(colors @ [0.299, 0.587, 0.114]) > 0).all()


def test_several_lines_over_words_stand_side_by_side():
    points = [Point(word, 0.8, 0.9, 0.7, 0.6) for word in ("mlp", "conv")]
    axes = draw_sweep("system.denoiser", {"a": points, "b": points}).axes[0]
    at = sorted({float(x) for line in axes.lines for x in line.get_xdata()})
    assert len(at) == 4 and [round(x) for x in at] == [0, 0, 1, 1]


def test_a_source_looks_the_same_everywhere_and_unlike_the_others():
    known = [*SOURCES, "reconstructed", "gaussian_full", "interpolated", "finetuned", *FURTHER]
    styles = source_styles([*known, "something_new"])
    assert len({color for color, _ in styles.values()}) == len(styles)
    assert styles["p_diff"] == source_styles(["p_diff", "gaussian"])["p_diff"]
    assert sum(to_rgb(styles["noised_0.15"][0])) > sum(to_rgb(styles["noised_0.05"][0])), "a larger number is lighter"


@pytest.mark.parametrize(
    "kind", ["verdict", "worth", "worth_measures", "ridges", "lines", "densities", "positions", "sweep", "words"]
)
def test_no_legend_lies_over_the_data(rng, kind):
    values, votes = by_source(rng), [vote for source in GROUPS for vote in make_votes(source, 0.5)]
    drawn = {
        "verdict": lambda: draw_differences(
            [
                Comparison(Standing(source, 9, 0.8), Difference(0.1, (0, 0.2), Decision.BETTER), None)
                for source in SOURCES
            ]
        ),
        "worth": lambda: draw_worth(votes, GROUPS),
        "worth_measures": lambda: draw_worth_measures(votes, GROUPS),
        "ridges": lambda: behavior_figures.draw_ridges(values, "x", (0.8, "mark")),
        "lines": lambda: behavior_figures.draw_accuracy_along_diffusion(np.arange(5), rng.random((3, 5))),
        "densities": lambda: weight_figures.draw_densities(
            {source: rng.normal(size=(9, 6)) for source in SOURCES if source != "ensemble"}, range(6)
        ),
        "positions": lambda: weight_figures.draw_positions(
            {source: rng.normal(size=(9, 2)) for source in SOURCES}, "x", "y", ticks=True
        ),
        "sweep": lambda: draw_sweep(
            "task.param.k", {"a": [Point(1, 0.8, 0.9, 0.7, 0.6), Point(50, 0.8, 0.9, 0.7, 0.6)]}
        ),
        "words": lambda: draw_sweep(
            "system.denoiser",
            {
                "a": [
                    Point(word, 0.8, 0.9, 0.7, 0.6)
                    for word in ("ConvDenoiser", "MLPDenoiser", "a rather long word" * 3)
                ]
            },
        ),
    }[kind]()
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    legends = [legend.get_window_extent() for legend in drawn.legends]
    assert legends and not any(legend.overlaps(axes.get_tightbbox()) for legend in legends for axes in drawn.axes)
    assert all(legend.x0 >= 0 and legend.x1 <= drawn.bbox.width + 1 for legend in legends)


def test_saving_is_repeatable_and_leaves_matplotlib_as_it_was(rng, tmp_path):
    before = dict(matplotlib.rcParams)
    values = by_source(rng)
    contents = [
        [
            path.read_bytes()
            for path in save(behavior_figures.draw_ridges(values, "x"), tmp_path / name, "ridges").values()
        ]
        for name in "ab"
    ]
    assert contents[0] == contents[1] and contents[0][0].startswith(b"\x89PNG") and b"<svg" in contents[0][1]
    assert dict(matplotlib.rcParams) == before


def test_a_subsample_is_of_the_rows_in_their_order():
    rows = np.arange(100)[:, None]
    chosen = subsample(rows, 7)[:, 0]
    assert len(chosen) == 7 and (np.diff(chosen) > 0).all() and (chosen == subsample(rows, 7)[:, 0]).all()
    assert (subsample(rows, 500) == rows).all()


def test_a_title_needs_no_settings(tmp_path):
    assert RunFiles(tmp_path / "my_run", {}).title == "my_run"
    config = {"task": {"data": {"dataset": "digits"}, "model": {"name": "resnet18"}, "param": {"k": 40}}}
    assert RunFiles(tmp_path, {}, config=config).title == "digits, resnet18, K = 40"
