"""metrics.json as text: accuracies in percent, a dash for measures that do not apply, aligned columns."""

import pytest

from core.evaluation.verdict import Comparison, Decision, Difference, Standing, Verdict
from core.report.cells import format_number, format_percent, markdown
from core.report.glossary import explain_sources
from core.report.tables import (
    build_combination_table,
    build_comparison_table,
    build_selection_table,
    build_source_table,
    format_closing_words,
    format_protocol_table,
    format_source_csv,
    format_source_table,
    write_report,
)

FULL = {
    "source": "p_diff",
    "n": 200,
    "accuracy_mean": 0.77241,
    "accuracy_std": 0.00126,
    "accuracy_best": 0.7755,
    "accuracy_median": 0.7726,
    "accuracy_worst": 0.7612,
    "loss_mean": 0.9,
    "max_iou_mean": 0.8481,
    "within_iou_mean": 0.8804,
    "min_l2_mean": 2.6044,
}
ALONE = {
    name: value for name, value in FULL.items() if name not in {"accuracy_std", "within_iou_mean", "max_iou_mean"}
} | {"source": "ensemble", "n": 1}
METRICS = {
    "table": [FULL, ALONE],
    "paper_protocol": {"original": 0.7715, "ensemble": 0.7707, "p_diff": 0.7755},
    "held_out_protocol": {"original": 0.7701, "ensemble": 0.7707, "p_diff": 0.7733},
}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize("value, shown", [(0.7755, "77.55"), (1.0, "100.00"), (0.0, "0.00"), (None, "–")])
def test_an_accuracy_is_shown_in_percent_and_absence_as_a_dash(value, shown):
    assert format_percent(value) == shown


def test_a_number_is_rounded_and_absence_is_a_dash():
    assert (format_number(0.8481), format_number(0.8481, 1), format_number(0.0), format_number(None)) == (
        "0.848",
        "0.8",
        "0.000",
        "–",
    )


def test_a_row_shows_every_measure_in_the_column_of_its_name():
    header, _, row, _ = cells(format_source_table(METRICS))
    shown = dict(zip(header, row, strict=True))
    assert shown == {
        "source": "p_diff",
        "n": "200",
        "mean ± std": "77.24 ± 0.13",
        "best": "77.55",
        "median": "77.26",
        "worst": "76.12",
        "max IoU": "0.848",
        "IoU within": "0.880",
        "min L2": "2.604",
    }


def test_measures_that_do_not_apply_are_dashes_and_never_numbers():
    header, _, _, row = cells(format_source_table(METRICS))
    shown = dict(zip(header, row, strict=True))
    assert (shown["mean ± std"], shown["max IoU"], shown["IoU within"]) == ("77.24", "–", "–")


def test_both_protocols_say_which_images_choose():
    header, _, paper, held_out = cells(format_protocol_table(METRICS))
    assert header[1:] == ["original", "ensemble", "p_diff"]
    assert "best on test" in paper[0] and paper[1:] == ["77.15", "77.07", "77.55"]
    assert "validation" in held_out[0] and held_out[1:] == ["77.01", "77.07", "77.33"]


def test_columns_line_up_in_a_terminal():
    lines = markdown(["source", "n"], [["a", "1"], ["much longer", "12345"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert {tuple(index for index, character in enumerate(line) if character == "|") for line in lines} == {(0, 14, 22)}


def test_the_report_on_disk_holds_both_tables(tmp_path):
    write_report(METRICS, None, tmp_path / "report", title="digits, K = 200")
    text = (tmp_path / "report" / "table.md").read_text()
    assert (
        "digits, K = 200" in text
        and build_source_table(METRICS).explained_markdown() in text
        and format_protocol_table(METRICS).splitlines()[-1].split("|")[1].strip() in text
    )


AUDITED = METRICS | {
    "table": [FULL | {"accuracy_interval": [0.7711, 0.7735], "ece_mean": 0.0312, "near_copies": 0.035}, ALONE],
    "selection": [{"source": "p_diff", "chosen_by": "val_loss", "test_accuracy": 0.7733, "uses_test": False}],
    "combination": [{"source": "p_diff", "method": "greedy soup", "accuracy": 0.78, "loss": 0.81, "ece": 0.02}],
    "verdict": {"sentences": ["Averages are as good."]},
}
VERDICT = Verdict(
    p_diff=Standing("p_diff", 200, 0.77241, 0.8481),
    comparisons=(
        Comparison(
            Standing("gaussian", 50, 0.77361, 0.8351),
            Difference(-0.0012, (-0.002, -0.0004), Decision.WORSE),
            Difference(0.013, (0.01, 0.016), Decision.WORSE),
        ),
        Comparison(Standing("ensemble", 1, 0.77241), Difference(0.0, None, Decision.UNDECIDED), None),
    ),
    averaging=(),
    best_average="ensemble",
    near_copies={},
)


def texts(table) -> list[dict[str, str]]:
    labels = [column.label for column in table.columns]
    return [dict(zip(labels, (cell.text for cell in row), strict=True)) for row in table.rows]


def test_the_table_has_the_columns_that_any_source_has_and_no_others():
    first, second = texts(build_source_table(AUDITED))
    assert (
        first["95% interval"] == "77.11–77.35"
        and first["ECE %"] == "3.12"
        and first["copies %"] == "3.50"
        and first["loss"] == "0.9000"
    )
    assert second["ECE %"] == second["std %"] == "–" and second["mean %"] == "77.24"
    assert "rel. L2" not in first and "ECE %" not in texts(build_source_table(METRICS))[0]


def test_every_column_and_every_source_is_explained_below_the_table():
    table = build_source_table(AUDITED)
    assert list(table.column_terms) == [column.label for column in table.columns]
    assert list(table.row_terms) == [row[0].text for row in table.rows]
    below = table.explained_markdown().removeprefix(table.markdown())
    assert below.count("\n- **") == len(table.columns) + len(table.rows)
    for other in (build_selection_table(AUDITED), build_combination_table(AUDITED)):
        assert {row[1].text for row in other.rows} == set(other.row_terms)


def test_a_source_with_a_number_is_explained_with_it_and_an_unknown_one_is_not():
    explained = explain_sources(["noised_0.05", "average_16", "gaussian_full", "something_new"])
    assert list(explained) == ["noised_0.05", "average_16", "gaussian_full"]
    assert " 0.05 " in explained["noised_0.05"] and " 16 " in explained["average_16"]
    assert not any("{" in explanation for explanation in explained.values())


def test_cells_are_ordered_by_their_numbers_and_not_by_their_text():
    row = build_source_table(AUDITED).rows[0]
    assert [cell.value for cell in row[:4]] == ["p_diff", 200, 0.77241, 0.00126]


def test_differences_are_shown_with_their_sign_and_in_points():
    table = build_comparison_table(VERDICT)
    gaussian, ensemble = [[cell.text for cell in row] for row in table.rows]
    assert gaussian == ["gaussian", "is dominated", "−0.12", "−0.20 to −0.04", "+0.013", "+0.010 to +0.016"]
    assert ensemble == ["ensemble", "tie", "+0.00", "–", "–", "–"]


def test_selection_tells_whether_test_images_chose():
    assert [list(row.values()) for row in texts(build_selection_table(AUDITED))] == [
        ["p_diff", "val loss", "77.33", "no"]
    ]


def test_unknown_numbers_of_a_combination_are_dashes():
    assert [list(row.values()) for row in texts(build_combination_table(AUDITED))] == [
        ["p_diff", "greedy soup", "–", "78.00", "0.8100", "2.00"]
    ]


@pytest.mark.parametrize(
    "build, content",
    [(build_comparison_table, None), (build_selection_table, METRICS), (build_combination_table, METRICS)],
)
def test_a_missing_block_gives_no_table(build, content):
    assert build(content) is None


def test_csv_is_at_full_precision_with_empty_fields_for_missing_measures():
    header, first, second = format_source_csv(AUDITED).splitlines()
    first, second = (dict(zip(header.split(","), line.split(","), strict=True)) for line in (first, second))
    assert first["accuracy_mean"] == "0.77241" and (
        first["accuracy_interval_low"],
        first["accuracy_interval_high"],
    ) == ("0.7711", "0.7735")
    assert second["accuracy_std"] == second["near_copies"] == "" and "min_l2_relative_mean" not in header


def test_the_markdown_file_holds_every_block(tmp_path):
    write_report(AUDITED, VERDICT, tmp_path, title="t")
    text = (tmp_path / "table.md").read_text()
    assert "- Averages are as good." in text and "greedy soup" in text and "val loss" in text and "is dominated" in text
    assert (tmp_path / "scores.csv").read_text() == format_source_csv(AUDITED)
    write_report(METRICS, None, tmp_path, title="t")
    assert "Verdict" not in (tmp_path / "table.md").read_text()


def test_a_run_ends_with_both_tables_the_headline_and_the_caution():
    verdict = {"sentences": ["Yes.", "More."], "caution": "Careful."}
    parts = format_closing_words(METRICS | {"verdict": verdict}).split("\n\n")
    assert parts == [format_source_table(METRICS), format_protocol_table(METRICS), "Yes.\nCareful."]
    assert format_closing_words(METRICS | {"verdict": {"sentences": ["Yes."]}}).endswith("\n\nYes.")
