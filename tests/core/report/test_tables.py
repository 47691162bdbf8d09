"""metrics.json as text: accuracies in percent, a dash for measures that do not apply, aligned columns."""

from dataclasses import replace

import pytest

from core.evaluation.groups import Group
from core.evaluation.verdict import Comparison, Decision, Difference, Doubt, Standing, Verdict
from core.report.cells import format_number, format_percent, markdown
from core.report.glossary import explain_sources
from core.report.source_table import (
    build_similarity_table,
    build_source_table,
    format_source_csv,
    format_source_table,
    list_rows,
)
from core.report.tables import (
    build_combination_table,
    build_comparison_table,
    build_selection_table,
    format_closing_words,
    format_protocol_table,
    write_report,
)
from core.report.worth_table import build_worth_table

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
    "kappa_mean": 0.9132,
    "kappa_relative_mean": 0.9345,
    "overlap_mean": 0.9512,
    "within_iou_mean": 0.8804,
    "min_l2_mean": 2.6044,
    "nearest_relative": 0.6543,
    "gradient_evaluations": 6.0,
}
ALONE = {
    name: value
    for name, value in FULL.items()
    if name in {"accuracy_mean", "accuracy_best", "accuracy_median", "accuracy_worst", "loss_mean", "min_l2_mean"}
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


def read_short(metrics) -> dict[str, dict[str, str]]:
    """Return the cells of each row of the terminal's table by header, by the name of the row."""
    header, _, *rows = cells(format_source_table(metrics))
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_a_row_shows_every_measure_in_the_column_of_its_name():
    assert read_short(AUDITED)["p_diff"] == {
        "source": "p_diff",
        "n": "200",
        "mean ± std": "77.24 ± 0.13",
        "95% interval": "77.11–77.35",
        "max IoU": "0.848",
        "κ": "0.913",
        "nearest": "0.654",
        "gradients": "6",
    }


def test_measures_that_do_not_apply_are_dashes_and_never_numbers():
    shown = read_short(METRICS)["ensemble"]
    assert (shown["mean ± std"], shown["max IoU"], shown["κ"], shown["gradients"]) == ("77.24", "–", "–", "–")


def test_a_file_of_an_earlier_version_has_no_columns_of_later_measures():
    old = METRICS | {"table": [{name: FULL[name] for name in ALONE} | {"max_iou_mean": 0.8}]}
    assert list(read_short(old)["p_diff"]) == ["source", "n", "mean ± std", "max IoU"]


EVERY_SOURCE = ("original", "p_diff", "finetuned", "gaussian", "soup_original", "soup_p_diff", "reconstructed")


def test_sources_stand_in_their_groups_and_a_stored_group_overrides_the_name():
    rows = [FULL | {"source": source} for source in EVERY_SOURCE] + [FULL | {"source": "new", "group": "trained"}]
    metrics = METRICS | {"table": rows}
    generated, free, trained = (
        ["p_diff", "soup_p_diff", "reconstructed"],
        ["gaussian", "soup_original"],
        ["finetuned", "new"],
    )
    every = ["original", *generated, *free, *trained]
    groups = ["original", *["generated"] * 3, *["free"] * 2, *["trained"] * 2]
    assert [row["source"] for row in list_rows(metrics)] == every
    assert list(read_short(metrics)) == [*("original", "generated:", *generated, "free:", *free, "trained:", *trained)]
    shown = {row[0].text: row[1].text for row in build_source_table(metrics).rows}
    assert shown == dict(zip(every, groups, strict=True))
    lines = format_source_csv(metrics).splitlines()[1:]
    assert [line.split(",")[:2] for line in lines] == [[source, group] for source, group in shown.items()]


def test_the_table_fits_a_terminal_of_100_columns():
    widest = FULL | {
        "source": "gaussian_log_all",
        "n": 10000,
        "accuracy_mean": 1.0,
        "accuracy_std": 0.1,
        "accuracy_interval": [0.9, 1.0],
        "gradient_evaluations": 1234567.0,
    }
    lines = format_source_table(METRICS | {"table": [widest, ALONE]}).splitlines()
    assert {len(line) for line in lines} == {len(lines[0])} and len(lines[0]) <= 100


@pytest.mark.parametrize("cost, shown", [(0, "0"), (6.0, "6"), (6.04, "6.0"), (12.5, "12"), (48000, "48,000")])
def test_gradient_evaluations_are_counted(cost, shown):
    assert read_short(METRICS | {"table": [FULL | {"gradient_evaluations": cost}]})["p_diff"]["gradients"] == shown


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
    "table": [
        FULL
        | {"accuracy_interval": [0.7711, 0.7735], "ece_mean": 0.0312, "near_copies": 0.5, "copies": 0.035}
        | {"deviation": 0.9, "outside_span": 0.25, "behavior": "samples"},
        ALONE,
    ],
    "worth": [
        {"source": "p_diff", "n_models": 200, "accuracy": 0.79, "accuracy_interval": [0.78, 0.8], "loss": 0.8}
        | {"loss_interval": [0.7, 0.9], "temperature": 1.25, "brier": 0.3, "ece": 0.01, "aurc": 0.05}
        | {"disagreement": 0.125, "auroc": {"splices": 0.75}, "equivalent": ">5"},
        {"source": "p_diff", "n_models": 1, "accuracy": 0.77, "loss": 0.9, "auroc": {}, "equivalent": 1.0},
        {"source": "original", "n_models": 2, "accuracy": 0.76, "loss": 0.95},
    ],
    "selection": [
        {"source": "p_diff", "chosen_by": "val_loss", "test_accuracy": 0.7733, "uses_test": False}
        | {"expected_accuracy": 0.7725, "expected_interval": [0.765, 0.778]},
    ],
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
    reference="gaussian",
    answer=Decision.WORSE,
    groups={"gaussian": Group.FREE, "ensemble": Group.FREE},
)


def texts(table) -> list[dict[str, str]]:
    labels = [column.label for column in table.columns]
    return [dict(zip(labels, (cell.text for cell in row), strict=True)) for row in table.rows]


def test_the_table_has_the_columns_that_any_source_has_and_no_others():
    first, second = texts(build_source_table(AUDITED))
    assert first["95% interval"] == "77.11–77.35" and first["ECE %"] == "3.12" and first["loss"] == "0.9000"
    assert second["ECE %"] == second["std %"] == "–" and second["mean %"] == "77.24"
    assert "ECE %" not in texts(build_source_table(METRICS))[0]
    similar, _ = texts(build_similarity_table(AUDITED))
    assert "rel. L2" not in similar and list(similar.values()) == [
        *("p_diff", "generated", "0.848", "0.913", "0.934", "0.951", "0.880", "2.604", "0.654", "3.50", "0.900"),
        *("25.00", "samples"),
    ]


def test_near_copies_of_an_earlier_file_are_shown_where_copies_were_not_measured():
    old = METRICS | {"table": [FULL | {"near_copies": 0.5}]}
    assert texts(build_similarity_table(old))[0]["near %"] == "50.00"
    assert "near %" not in texts(build_similarity_table(AUDITED))[0]


def test_a_file_without_similarity_has_no_table_of_it():
    bare = {name: value for name, value in ALONE.items() if name != "min_l2_mean"}
    assert build_similarity_table(METRICS | {"table": [bare]}) is None


def test_every_column_and_every_source_is_explained_below_the_table():
    table = build_source_table(AUDITED)
    assert list(table.column_terms) == [column.label for column in table.columns]
    assert list(table.row_terms) == [row[0].text for row in table.rows]
    below = table.explained_markdown().removeprefix(table.markdown())
    assert below.count("\n- **") == len(table.columns) + len(table.rows)
    similarity = build_similarity_table(AUDITED)
    assert list(similarity.column_terms) == [column.label for column in similarity.columns]
    for other in (build_selection_table(AUDITED), build_combination_table(AUDITED)):
        assert {row[1].text for row in other.rows} == set(other.row_terms)


def test_a_source_with_a_number_is_explained_with_it_and_an_unknown_one_is_not():
    explained = explain_sources(["noised_0.05", "average_16", "gaussian_full", "something_new"])
    assert list(explained) == ["noised_0.05", "average_16", "gaussian_full"]
    assert " 0.05 " in explained["noised_0.05"] and " 16 " in explained["average_16"]
    assert not any("{" in explanation for explanation in explained.values())


def test_cells_are_ordered_by_their_numbers_and_not_by_their_text():
    row = build_source_table(AUDITED).rows[0]
    assert [cell.value for cell in row[:6]] == ["p_diff", "generated", 200, 0.77241, 0.00126, 0.7711]


def test_differences_are_shown_with_their_sign_and_in_points():
    table = build_comparison_table(VERDICT)
    gaussian, ensemble = [[cell.text for cell in row] for row in table.rows]
    assert gaussian == ["gaussian", "free", "is dominated", "−0.12", "−0.20 to −0.04", "+0.013", "+0.010 to +0.016"]
    assert ensemble == ["ensemble", "free", "tie", "+0.00", "–", "–", "–"]


def test_a_lower_max_iou_that_does_not_count_is_in_parentheses():
    lower = Difference(-0.3, (-0.4, -0.2), Decision.BETTER)
    comparison = replace(VERDICT.comparisons[0], max_iou=lower, doubt=Doubt.ACCURACY)
    (row,) = build_comparison_table(replace(VERDICT, comparisons=(comparison,))).rows
    assert [cell.text for cell in row][2:] == [
        "is dominated",
        "−0.12",
        "−0.20 to −0.04",
        "(−0.300)",
        "−0.400 to −0.200",
    ]


def test_the_difference_in_relative_kappa_is_shown_where_it_was_measured():
    kappa = Difference(-0.0204, (-0.03, -0.01), Decision.BETTER)
    rows = (replace(VERDICT.comparisons[0], kappa_relative=kappa), VERDICT.comparisons[1])
    table = build_comparison_table(replace(VERDICT, comparisons=rows))
    assert [column.label for column in table.columns][5:] == ["max IoU", "interval", "κ rel.", "interval"]
    assert [[cell.text for cell in row][7:] for row in table.rows] == [["−0.020", "−0.030 to −0.010"], ["–", "–"]]


@pytest.mark.parametrize("level, named", [(0.95, "95%"), (0.9643, "96.4%")])
def test_the_level_of_the_intervals_is_told(level, named):
    explained = build_comparison_table(replace(VERDICT, interval_level=level)).column_terms["interval"]
    assert f"level is {named}" in explained and ("gaussian" in explained) == (level != 0.95)


def test_selection_tells_whether_test_images_chose():
    assert [list(row.values()) for row in texts(build_selection_table(AUDITED))] == [
        ["p_diff", "val loss", "77.33", "77.25", "76.50–77.80", "no"]
    ]
    (row,) = AUDITED["selection"]
    old = {name: value for name, value in row.items() if not name.startswith("expected")}
    assert [list(shown.values()) for shown in texts(build_selection_table({"selection": [old]}))] == [
        ["p_diff", "val loss", "77.33", "no"]
    ]


def test_the_table_of_votes_shows_the_vote_of_the_most_models_of_each_source():
    metrics = AUDITED | {"table": [FULL, FULL | {"source": "original"}, ALONE]}
    original, p_diff = [list(row.values()) for row in texts(build_worth_table(metrics))]
    assert original == ["original", "original", "2", "76.00", "–", "0.9500", *["–"] * 8]
    assert p_diff == [
        *("p_diff", "generated", "200", "79.00", "78.00–80.00", "0.8000", "0.7000–0.9000", "1.25", "0.3000", "1.00"),
        *("0.0500", "12.50", "0.750", "> 5"),
    ]
    assert build_worth_table(metrics).rows[1][-1].value == 5
    assert list(build_worth_table(metrics).column_terms)[-2:] == ["AUROC splices", "equivalent"]


@pytest.mark.parametrize("metrics, told", [(AUDITED, True), (AUDITED | {"worth": []}, False)])
def test_losses_of_combinations_are_said_to_be_at_a_temperature_if_there_are_votes(metrics, told):
    terms = build_combination_table(metrics).column_terms
    assert {"temperature fitted on validation" in terms[label] for label in ("loss", "ECE %")} == {told}


def test_unknown_numbers_of_a_combination_are_dashes():
    assert [list(row.values()) for row in texts(build_combination_table(AUDITED))] == [
        ["p_diff", "greedy soup", "–", "78.00", "0.8100", "2.00"]
    ]


@pytest.mark.parametrize(
    "build, content",
    [
        (build_comparison_table, None),
        (build_selection_table, METRICS),
        (build_combination_table, METRICS),
        (build_worth_table, METRICS),
    ],
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
    assert build_worth_table(AUDITED).markdown() in text and build_similarity_table(AUDITED).markdown() in text
    assert "- Averages are as good." in text and "greedy soup" in text and "val loss" in text and "is dominated" in text
    assert (tmp_path / "scores.csv").read_text() == format_source_csv(AUDITED)
    write_report(METRICS, None, tmp_path, title="t")
    assert "Verdict" not in (tmp_path / "table.md").read_text()


def test_a_run_ends_with_both_tables_the_headline_and_the_caution():
    verdict = {"sentences": ["Yes.", "More."], "caution": "Careful."}
    parts = format_closing_words(METRICS | {"verdict": verdict}).split("\n\n")
    sources, *others = parts
    assert others == [format_protocol_table(METRICS), "Yes.\nCareful."]
    assert sources.startswith(format_source_table(METRICS))
    legend = sources.removeprefix(format_source_table(METRICS)).strip().splitlines()
    assert [line.partition(":")[0] for line in legend] == ["free", "max IoU", "κ", "nearest", "gradients"]
    assert format_closing_words(METRICS | {"verdict": {"sentences": ["Yes."]}}).endswith("\n\nYes.")
