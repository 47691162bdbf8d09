"""Several runs as one table, in the shape of the paper's Table 1."""

from collections.abc import Sequence
from typing import Any

from core.evaluation.kinds import GENERATED, ORIGINAL, PROTOCOL_SOURCES
from core.report.cells import ABSENT, Cell, Column, Table, format_csv, format_number
from core.report.compared_runs import CLASS, ComparedRun, differing_settings
from core.report.metric_words import MetricWords
from core.report.published import find_paper_accuracies

CHOSEN_HELD_OUT = "with the lowest loss on validation images, which are held out from training and test"
COLUMNS = {
    "original_best": Column("original %", "test accuracy of the best checkpoint on test, as in the paper"),
    "ensemble_best": Column("ensemble %", "test accuracy of one model whose weights are the mean of all checkpoints"),
    "p_diff_best": Column("p_diff %", "test accuracy of the best generated model on test, as in the paper"),
    "original_mean": Column("original mean %", "mean test accuracy of the checkpoints"),
    "p_diff_mean": Column("p_diff mean %", "mean test accuracy of the generated models"),
    "original_held_out": Column("original held out %", f"test accuracy of the checkpoint {CHOSEN_HELD_OUT}"),
    "ensemble_held_out": Column("ensemble held out %", "equals ensemble %, because there is one model to choose from"),
    "p_diff_held_out": Column("p_diff held out %", f"test accuracy of the generated model {CHOSEN_HELD_OUT}"),
    "p_diff_max_iou": Column(
        "p_diff max IoU",
        "share of wrong test images that a generated model has in common with its most similar checkpoint, mean over "
        "models; lower is newer, and 1 means the same errors",
    ),
    "p_diff_kappa_relative": Column(
        "p_diff κ rel.",
        "error consistency κ of a generated model with its most similar checkpoint, divided by the largest κ that "
        "their accuracies allow, mean over models; 1 means that the errors of one are among those of the other",
    ),
    "reference_difference": Column(
        "p_diff minus free, points",
        "mean test accuracy of p_diff minus that of the best source that needs no training after the checkpoints, "
        "chosen on validation",
    ),
}
OPTIONAL = ("p_diff_kappa_relative", "reference_difference")  # columns that runs of earlier versions cannot fill
SIMILARITIES = ("iou", "kappa_relative")  # Names with these ends are similarities, and others hold the primary metric.
PAPER_COLUMN = Column(
    "paper: original / ensemble / p_diff", "published best test accuracies for this dataset and architecture"
)


def read_numbers(run: ComparedRun) -> dict[str, float | None]:
    """Return the numbers of a run by the names in `COLUMNS`. Accuracies are in [0, 1]; missing numbers are None."""
    best, held_out = run.files.metrics["paper_protocol"], run.files.metrics["held_out_protocol"]
    original, p_diff = run.rows.get(ORIGINAL, {}), run.rows.get(GENERATED, {})
    return {
        **{f"{source}_best": best.get(source) for source in PROTOCOL_SOURCES},
        "original_mean": original.get("accuracy_mean"),
        "p_diff_mean": p_diff.get("accuracy_mean"),
        **{f"{source}_held_out": held_out.get(source) for source in PROTOCOL_SOURCES},
        "p_diff_max_iou": p_diff.get("max_iou_mean"),
        "p_diff_kappa_relative": p_diff.get("kappa_relative_mean"),
        "reference_difference": read_reference_difference(run),
    }


def read_reference_difference(run: ComparedRun) -> float | None:
    """Return the mean accuracy of p_diff minus that of the best free source; None if the verdict names none."""
    reference = run.files.metrics.get("verdict", {}).get("reference")
    if reference not in run.rows or GENERATED not in run.rows:
        return None
    return run.rows[GENERATED]["accuracy_mean"] - run.rows[reference]["accuracy_mean"]


def read_words(runs: Sequence[ComparedRun]) -> MetricWords:
    """Return the words for the metric of all runs."""
    return MetricWords.read(runs[0].files.metrics) if runs else MetricWords()


def choose_columns(runs: Sequence[ComparedRun]) -> dict[str, Column]:
    """Return the columns in the words of the metric, without the optional ones that no run can fill."""
    words = read_words(runs)
    numbers = [read_numbers(run) for run in runs]
    return {
        name: words.adapt_column(column)
        for name, column in COLUMNS.items()
        if name not in OPTIONAL or any(row[name] is not None for row in numbers)
    }


def build_table(runs: Sequence[ComparedRun]) -> Table:
    """Return one row per run: its name, the settings that differ, its numbers, and the paper's numbers if any."""
    differing, published = differing_settings(runs), [find_paper_accuracies(run.files) for run in runs]
    measured, words = choose_columns(runs), read_words(runs)
    columns = [
        Column("dataset, model"),
        *(Column(name.removesuffix(CLASS)) for name in differing),
        *measured.values(),
    ]
    if any(published):
        columns.append(PAPER_COLUMN)
    rows = []
    for run, paper in zip(runs, published, strict=True):
        label, numbers = ", ".join(run.group), read_numbers(run)
        cells = [Cell(label, label), *(setting_cell(name, run.settings.get(name)) for name in differing)]
        cells += [number_cell(name, numbers[name], words) for name in measured]
        if any(published):
            shown = [" / ".join(f"{100 * row[source]:.1f}" for source in PROTOCOL_SOURCES) for row in paper.values()]
            cells.append(Cell("; ".join(shown) or ABSENT))
        rows.append(cells)
    return Table(columns, rows)


def number_cell(name: str, value: float | None, words: MetricWords) -> Cell:
    """Return the cell of one number: a similarity as it is, an accuracy in percent, a difference in points."""
    if name.endswith("difference"):
        return Cell(words.format_difference(value), value)
    return Cell((format_number if name.endswith(SIMILARITIES) else words.format)(value), value)


def setting_cell(name: str, value: Any) -> Cell:
    """Return the cell of one setting: a class without its package, a list without brackets, None as a dash."""
    if value is None:
        return Cell(ABSENT)
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = text.rpartition(".")[2] if name.endswith(CLASS) else text
    return Cell(text, text)


def format_comparison_csv(runs: Sequence[ComparedRun]) -> str:
    """Return the table as CSV at full precision, with the folder of each run."""
    differing, measured = differing_settings(runs), choose_columns(runs)
    return format_csv(
        ["run", "dataset", "model", *differing, *measured],
        [
            [
                run.files.path,
                *run.group,
                *(run.settings.get(name) for name in differing),
                *(read_numbers(run)[name] for name in measured),
            ]
            for run in runs
        ],
    )
