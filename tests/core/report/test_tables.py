"""metrics.json as text: accuracies in percent, a dash for what does not apply, columns that line up."""

import pytest

from core.report.cells import markdown, number, percent
from core.report.tables import full_table, protocol_table, source_table, write_report

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
ALONE = {name: value for name, value in FULL.items() if name not in {"accuracy_std", "within_iou_mean", "max_iou_mean"}} | {"source": "ensemble", "n": 1}
METRICS = {
    "table": [FULL, ALONE],
    "paper_protocol": {"original": 0.7715, "ensemble": 0.7707, "p_diff": 0.7755},
    "held_out_protocol": {"original": 0.7701, "ensemble": 0.7707, "p_diff": 0.7733},
}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize("value, shown", [(0.7755, "77.55"), (1.0, "100.00"), (0.0, "0.00"), (None, "–")])
def test_an_accuracy_is_shown_in_percent_and_absence_as_a_dash(value, shown):
    assert percent(value) == shown


def test_a_number_is_rounded_and_absence_is_a_dash():
    assert (number(0.8481), number(0.8481, 1), number(0.0), number(None)) == ("0.848", "0.8", "0.000", "–")


def test_a_row_shows_every_measure_in_the_column_of_its_name():
    header, _, row, _ = cells(source_table(METRICS))
    shown = dict(zip(header, row))
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
    header, _, _, row = cells(source_table(METRICS))
    shown = dict(zip(header, row))
    assert (shown["mean ± std"], shown["max IoU"], shown["IoU within"]) == ("77.24", "–", "–")


def test_both_protocols_are_labeled_with_who_chose():
    header, _, paper, held_out = cells(protocol_table(METRICS))
    assert header[1:] == ["original", "ensemble", "p_diff"]
    assert "best on test" in paper[0] and paper[1:] == ["77.15", "77.07", "77.55"]
    assert "validation" in held_out[0] and held_out[1:] == ["77.01", "77.07", "77.33"]


def test_columns_line_up_for_people_who_read_it_in_a_terminal():
    lines = markdown(["source", "n"], [["a", "1"], ["much longer", "12345"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert {tuple(index for index, character in enumerate(line) if character == "|") for line in lines} == {(0, 14, 22)}


def test_the_report_on_disk_holds_both_tables(tmp_path):
    write_report(METRICS, tmp_path / "report", title="digits, K = 200")
    text = (tmp_path / "report" / "table.md").read_text()
    assert "digits, K = 200" in text and full_table(METRICS).markdown() in text and "held out: chosen on validation" in text
