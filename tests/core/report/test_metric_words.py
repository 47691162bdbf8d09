"""The words and numbers of a metric other than accuracy, of which lower is better, in every part of a report."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from core.evaluation.scores import ACCURACY, Metric, ScoreTable
from core.evaluation.verdict import Comparison, Decision, Difference, Novelty, Verdict
from core.publishing.model_card import describe_results
from core.report import behavior_figures, sentences
from core.report.captions import CAPTIONS, write_caption
from core.report.cells import Column, format_percent, format_signed
from core.report.compared_runs import read_runs
from core.report.comparison import describe_comparison
from core.report.metric_words import ACCURACY_WORDS, MetricWords
from core.report.overview import choose_key_numbers
from core.report.page import write_page
from core.report.source_table import build_source_table, format_source_table
from core.report.sweep_figure import Point, draw_sweep
from core.report.tables import build_comparison_table, build_protocol_table, build_selection_table
from core.report.verdict_figure import GOOD_SIDE, draw_differences
from core.runtime.run_directory import RunDirectory
from tests.core.report.test_sentences import comparison, make_verdict

RMSE = Metric("RMSE", "meters", higher_is_better=False)
MEAN_IOU = Metric("mean IoU", "share of pixels", higher_is_better=True, in_percent=True)
WORDS = MetricWords(RMSE)
BETTER, WORSE, UNDECIDED = Decision.BETTER, Decision.WORSE, Decision.UNDECIDED
AVERAGE = (
    "average_8 (the mean of 8 random checkpoints), the best on validation items of the sources that need no further "
    "training"
)
SHOWN = "−4.190 meters (95% interval −8.250 to −0.130)"


def of_rmse(row: Comparison, decision=BETTER) -> Comparison:
    """Return the comparison with a difference in RMSE."""
    return replace(row, accuracy=Difference(-4.19, (-8.25, -0.13), decision))


def verdict_of(decision=BETTER, **changes) -> Verdict:
    """Return a verdict about RMSE without errors on single items."""
    rows = (of_rmse(comparison("average_8", max_iou=None), decision), of_rmse(comparison("original", max_iou=None)))
    made = make_verdict(answer=decision, novelty=None, metric=RMSE, **changes)
    return replace(made, comparisons=rows, p_diff=replace(made.p_diff, accuracy_mean=52.0, max_iou_mean=None))


@pytest.mark.parametrize(
    "metric, words",
    [
        (
            ACCURACY,
            ("more accurate", "less accurate", "the most accurate", "accuracy", "Accuracy", "percentage points"),
        ),
        (RMSE, ("better in RMSE", "worse in RMSE", "the best in RMSE", "RMSE", "RMSE", "meters")),
        (
            MEAN_IOU,
            ("better in mean IoU", "worse in mean IoU", "the best in mean IoU", "mean IoU", "Mean IoU",
             "percentage points"),
        ),
    ],
)  # fmt: skip
def test_a_metric_has_words(metric, words):
    made = MetricWords(metric)
    assert (made.better, made.worse, made.best, made.name, made.title, made.unit) == words


@pytest.mark.parametrize("value", [0.0, 0.05, 0.92345, 1.0, None])
def test_accuracy_is_shown_as_percent(value):
    assert ACCURACY_WORDS.format(value) == format_percent(value)
    assert ACCURACY_WORDS.format_difference(value) == format_signed(value, 100, 2)


@pytest.mark.parametrize(
    "value, text",
    [(56.1532, "56.15"), (0.0123456, "0.01235"), (5615.034, "5615"), (123456.7, "123457"), (0, "0.000"), (None, "–"),
     (1.5e-9, "1.500e-09")],
)  # fmt: skip
def test_values_that_are_no_shares_have_four_significant_digits(value, text):
    assert WORDS.format(value) == text


def test_numbers_side_by_side_have_the_same_decimals():
    assert WORDS.format_spread(56.1532, 0.4321) == "56.15 ± 0.43"
    assert WORDS.format_ends((-0.35124, 8.25), 4.19) == ["−0.351", "+8.250"]
    assert WORDS.format_interval((56.1532, 58.6)) == "56.15–58.60" == WORDS.format_range([58.6, 56.1532])
    assert ACCURACY_WORDS.format_range([0.95, 0.9123]) == "91.23–95.00%"


def test_texts_of_accuracy_are_adapted_and_those_for_accuracy_stay():
    column = Column("best %", "highest test accuracy, higher is better; above 0 is better")
    assert ACCURACY_WORDS.adapt_column(column) == column
    assert WORDS.adapt_column(column) == Column("best", "best test RMSE, lower is better; below 0 is better")
    assert WORDS.adapt("less accurate than the most accurate, in percentage points") == (
        "worse in RMSE than the best in RMSE, in meters"
    )
    assert MetricWords(MEAN_IOU).adapt_column(column).label == "best %"
    for name, caption in CAPTIONS.items():
        assert write_caption(name, ACCURACY_WORDS) == caption
        said = " ".join(write_caption(name, WORDS)).lower()
        assert "image" not in said and ("accura" not in said or name == "worth")


@pytest.mark.parametrize(
    "decision, answer",
    [
        (BETTER, f"Yes, the generated models (p_diff) are better in RMSE than {AVERAGE}: {SHOWN}."),
        (WORSE, f"No, the generated models (p_diff) are worse in RMSE than {AVERAGE}: {SHOWN}."),
        (UNDECIDED, f"No, the generated models (p_diff) are not measurably better in RMSE than {AVERAGE}: {SHOWN}."),
    ],
)
def test_the_answer_names_the_metric(decision, answer):
    assert sentences.write_answer(verdict_of(decision)) == answer


def test_no_sentence_of_another_metric_speaks_of_accuracy():
    verdict = verdict_of(reference="average_8", draws=10_000)
    statements = sentences.write_statements(verdict)
    assert not any("accura" in statement for statement in statements)
    assert sentences.write_gain(verdict) == (
        f"Generated models are better in RMSE than the checkpoints themselves: {SHOWN}."
    )
    assert sentences.write_outcomes(verdict).startswith("Compared in RMSE with the 2 sources")
    assert sentences.write_outcomes(verdict).endswith("if it is measurably better in RMSE.")
    assert "average_8 is the best in RMSE on validation items." in sentences.write_method(verdict)
    assert "All but that of the headline's RMSE have" in sentences.write_method(verdict)


@pytest.mark.parametrize("novelty", [novelty for novelty in Novelty])
def test_the_novelty_of_another_metric_does_not_speak_of_accuracy(novelty):
    verdict = make_verdict(novelty=novelty, metric=MEAN_IOU, rival="average_8")
    assert "accura" not in sentences.write_novelty(verdict)


def test_the_verdict_stores_a_metric_only_if_it_is_not_accuracy():
    assert "metric" not in make_verdict().to_json() and make_verdict().metric == ACCURACY
    content = json.loads(json.dumps(verdict_of().to_json()))
    assert content["metric"] == asdict(RMSE) and Verdict.from_json(content) == verdict_of()


@pytest.mark.parametrize("words, good", [(WORDS, "left"), (MetricWords(MEAN_IOU), "right"), (ACCURACY_WORDS, "right")])
def test_the_good_side_of_the_figure_of_the_verdict_is_shaded(words, good):
    axes = draw_differences([of_rmse(comparison("average_8", max_iou=None))], words).axes[0]
    (shaded,) = [patch for patch in axes.patches if patch.get_facecolor()[:3] == pytest.approx(to_rgb(GOOD_SIDE))]
    low, high = shaded.get_x(), shaded.get_x() + shaded.get_width()
    assert (low < 0 and high == 0) if good == "left" else (low == 0 and high > 0)
    hint = axes.texts[0].get_text()
    assert words.better in hint and ("←" in hint) == (good == "left")
    (value,) = axes.lines[1].get_xdata()
    assert value == pytest.approx(-4.19 * words.scale) and words.name in axes.get_xlabel()


def test_better_models_stand_higher_in_every_figure():
    rng = np.random.default_rng(0)
    accuracy = {source: rng.uniform(50, 60, 9) for source in ("original", "p_diff")}
    overlap = {source: rng.uniform(0.5, 1, 9) for source in accuracy}
    point = Point(1, 52.0, 51.0, 53.0, None)
    for words in (WORDS, MetricWords(MEAN_IOU)):
        drawn = [
            behavior_figures.draw_accuracy_over_iou(accuracy, overlap, words),
            behavior_figures.draw_accuracy_along_diffusion(np.arange(3), rng.random((2, 3)), words),
            draw_sweep("system.steps", {"a": [point, point._replace(value=2)]}, words),
        ]
        for axes in (each.axes[0] for each in drawn):
            assert bool(axes.yaxis_inverted()) is (words is WORDS)
            assert words.name in axes.get_ylabel() and ("%" in axes.get_ylabel()) == words.metric.in_percent


@pytest.fixture
def rmse_run(reported: Path, tmp_path: Path) -> Path:
    """Return a run whose numbers are those of an RMSE without errors on single items."""
    folder = Path(shutil.copytree(reported, tmp_path / "rmse", ignore=shutil.ignore_patterns("report")))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {"metric": asdict(RMSE), "worth": []}
    for row in [*metrics["table"], *metrics["combination"]]:
        for name in ("ece", "ece_mean"):
            row.pop(name, None)  # a calibration is defined for classes alone
    metrics["verdict"]["metric"] = asdict(RMSE)
    metrics["verdict"]["sentences"] = ["No, the generated models are not measurably better in RMSE."]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for path in (folder / "scores").glob("*.npz"):
        table = ScoreTable.load(path)
        scores = replace(table.scores["test"], wrong_MN=None, ece_M=None, metric=RMSE)
        replace(table, scores={"test": scores}).save(path)
    return folder


def test_tables_show_the_metric_as_it_is(rmse_run):
    metrics = json.loads((rmse_run / "metrics.json").read_text())
    verdict = Verdict.from_json(metrics["verdict"])
    row = metrics["table"][0]
    labels = [column.label for column in build_source_table(metrics).columns]
    assert {"mean", "std", "best", "median", "worst"} <= set(labels)
    assert WORDS.format_spread(row["accuracy_mean"], row["accuracy_std"]) in format_source_table(metrics)
    assert build_protocol_table(metrics).columns[1].label == "original"
    assert build_selection_table(metrics).columns[2].label == "test RMSE"
    compared = build_comparison_table(verdict)
    assert compared.columns[3].label == "RMSE"
    assert compared.columns[3].explanation.endswith("in meters; below 0 is better")
    first = verdict.comparisons[0].accuracy
    assert compared.rows[0][3].text == WORDS.format_difference(first.value, *first.interval)
    assert choose_key_numbers(verdict)[0].label.startswith("RMSE against ")
    card = describe_results({**metrics, "scored": None}, models=())
    assert "| source | n | mean RMSE | best | max IoU |" in card and "shows RMSE on test items" in card
    runs, _ = read_runs([rmse_run])
    assert "| p_diff mean |" in describe_comparison(runs)


def test_runs_of_different_metrics_are_not_compared(rmse_run, reported):
    runs, problems = read_runs([reported, rmse_run])
    assert len(runs) == 1 and "measures RMSE" in problems[0]


def test_the_page_of_another_metric_speaks_of_accuracy_nowhere(rmse_run, fast_figures):
    html = write_page(RunDirectory(rmse_run)).read_text()
    assert "Test RMSE of one chosen model" in html and 'id="problems"' not in html
    said = html[html.index("</style>") :]
    said = re.sub(r'<img src="[^"]*"|<details>.*</details>', "", said[: said.index("<script")], flags=re.DOTALL)
    assert "RMSE against" in said and "test items" in said
    found = re.findall(r".{40}(?:image|accura|log-likelihood|ECE|calibration).{20}", said, flags=re.IGNORECASE)
    assert not found, "a report on another task speaks of images, accuracy or calibration"
    table = (rmse_run / "report/table.md").read_text()
    assert not re.search("image|accura|log-likelihood|ECE|calibration", table, flags=re.IGNORECASE)
