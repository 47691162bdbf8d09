"""Rows of metrics.json, and the split that chooses the best model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from core.evaluation.copying import Behavior, Closeness
from core.evaluation.intervals import Bootstrap, percentile_interval
from core.evaluation.kinds import Kind
from core.evaluation.metrics import (
    Spacing,
    error_consistency,
    max_iou,
    min_l2,
    near_copies,
    pair_with_others,
    within_iou,
)
from core.evaluation.scores import Scores
from core.evaluation.summary import make_table_row, summarize_tables
from tests.core.evaluation.tables import scores, table, votes


@pytest.fixture
def tables():
    """Return score tables in which validation and test have different best models."""
    return {
        "original": table(
            "original", scores([0.70, 0.80, 0.90, 0.60], seed=1), scores([0.8, 0.95, 0.7, 0.6], seed=2), seed=1
        ),
        "ensemble": table("ensemble", scores([0.85], seed=3), scores([0.5], seed=4), seed=2),
        "p_diff": table(
            "p_diff", scores([0.75, 0.65, 0.99], seed=5), scores([0.9, 0.9, 0.1], loss=[0.5, 0.4, 9.0], seed=6), seed=3
        ),
        "gaussian": table("gaussian", scores([0.5, 0.6], seed=7), seed=4),
    }


def test_the_papers_protocol_reports_the_best_on_test(tables):
    assert summarize_tables(tables)["paper_protocol"] == {"original": 0.90, "ensemble": 0.85, "p_diff": 0.99}


def test_the_held_out_protocol_chooses_on_validation_and_reports_on_test(tables):
    assert summarize_tables(tables)["held_out_protocol"] == {"original": 0.80, "ensemble": 0.85, "p_diff": 0.65}


def test_there_is_one_row_per_source_in_their_order(tables):
    rows = summarize_tables(tables)["table"]
    assert [(row["source"], row["n"]) for row in rows] == [
        ("original", 4),
        ("ensemble", 1),
        ("p_diff", 3),
        ("gaussian", 2),
    ]


def test_a_row_compares_with_the_originals_on_test(tables):
    row, scored, original = (
        make_table_row(tables["p_diff"], tables["original"], Bootstrap(tables)),
        tables["p_diff"].scores["test"],
        tables["original"],
    )
    assert row["accuracy_mean"] == pytest.approx(np.mean([0.75, 0.65, 0.99])) and row["accuracy_best"] == 0.99
    assert row["loss_mean"] == pytest.approx(scored.loss_M.mean())
    assert row["max_iou_mean"] == pytest.approx(max_iou(scored.wrong_MN, original.scores["test"].wrong_MN).mean())
    assert row["within_iou_mean"] == pytest.approx(within_iou(scored.wrong_MN))
    assert row["min_l2_mean"] == pytest.approx(min_l2(tables["p_diff"].vectors_MD, original.vectors_MD).mean())


def test_the_originals_are_compared_with_the_other_originals(tables):
    row = make_table_row(tables["original"], tables["original"], Bootstrap(tables))
    assert row["max_iou_mean"] < 1 and row["min_l2_mean"] > 0


def test_a_copy_of_the_originals_under_another_name_is_fully_similar(tables):
    copied = table("reconstructed", tables["original"].scores["test"], seed=1)
    row = make_table_row(copied, tables["original"], Bootstrap(tables | {"reconstructed": copied}))
    assert row["max_iou_mean"] == 1 and row["min_l2_mean"] == 0


def test_one_model_has_neither_a_spread_nor_a_similarity_within(tables):
    row = make_table_row(tables["ensemble"], tables["original"], Bootstrap(tables))
    assert {"accuracy_std", "within_iou_mean"}.isdisjoint(row) and {"max_iou_mean", "min_l2_mean"} <= row.keys()


def test_a_task_without_right_and_wrong_images_has_no_similarity(tables):
    originals = table("original", scores([0.5, 0.6], with_wrong=False))
    generated = table("p_diff", scores([0.5, 0.6], with_wrong=False), seed=9)
    row = make_table_row(generated, originals, Bootstrap({"original": originals, "p_diff": generated}))
    assert {"max_iou_mean", "kappa_mean", "overlap_mean", "within_iou_mean"}.isdisjoint(row)
    assert row["min_l2_mean"] > 0


def test_it_is_plain_json_without_nan(tables):
    content = summarize_tables(tables)
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def with_test(score_table, **changes):
    return replace(score_table, scores={**score_table.scores, "test": replace(score_table.scores["test"], **changes)})


def row_of(content, source):
    return next(row for row in content["table"] if row["source"] == source)


def test_a_row_holds_the_interval_of_its_mean(tables):
    bootstrap = Bootstrap(tables)
    rows = summarize_tables(tables, bootstrap)["table"]
    assert rows == summarize_tables(tables)["table"]
    for row in rows:
        assert (
            row["accuracy_interval"] == percentile_interval(bootstrap.draw_accuracy(row["source"]))
            and row["accuracy_interval"][0] < row["accuracy_interval"][1]
        )


def test_one_model_without_known_images_has_no_interval():
    plain = {
        name: table(name, scores([0.5] * n, with_wrong=False), scores([0.5] * n))
        for name, n in (("original", 3), ("ensemble", 1), ("p_diff", 2))
    }
    assert [row["source"] for row in summarize_tables(plain)["table"] if "accuracy_interval" in row] == [
        "original",
        "p_diff",
    ]


def test_a_row_measures_distance_by_the_spacing_of_the_originals(tables):
    row, original_KD = row_of(summarize_tables(tables), "p_diff"), tables["original"].vectors_MD
    spacing, nearest_M = Spacing.measure(original_KD), min_l2(tables["p_diff"].vectors_MD, original_KD)
    assert row["min_l2_relative_mean"] == pytest.approx(nearest_M.mean() / spacing.mean)
    assert row["near_copies"] == near_copies(nearest_M, spacing)


def test_the_originals_have_no_near_copies_but_a_relative_distance_below_one(tables):
    row = row_of(summarize_tables(tables), "original")
    assert "near_copies" not in row and 0 < row["min_l2_relative_mean"] <= 1


def test_originals_that_are_all_equal_give_no_relative_distance(tables):
    tables["original"] = replace(tables["original"], vectors_MD=np.ones((4, 6), np.float32))
    row = row_of(summarize_tables(tables), "p_diff")
    assert "min_l2_relative_mean" not in row and row["near_copies"] == 0


def test_a_single_original_has_no_measure_of_similarity(tables):
    tables["original"] = table("original", scores([0.7]), scores([0.8]))
    content = summarize_tables(tables)
    assert {"max_iou_mean", "min_l2_mean"}.isdisjoint(row_of(content, "original"))
    assert "min_l2_mean" in row_of(content, "p_diff") and {"near_copies", "min_l2_relative_mean"}.isdisjoint(
        row_of(content, "p_diff")
    )


def test_calibration_is_reported_if_it_was_measured(tables):
    tables["p_diff"] = with_test(tables["p_diff"], ece_M=np.array([0.1, 0.2, 0.6]))
    content = summarize_tables(tables)
    assert row_of(content, "p_diff")["ece_mean"] == pytest.approx(0.3) and "ece_mean" not in row_of(content, "original")


def test_a_loss_that_is_not_finite_is_not_reported(tables):
    tables["p_diff"] = with_test(tables["p_diff"], loss_M=np.array([0.1, np.nan, 0.1]), votes=votes(0.5, np.inf, 0.6))
    content = summarize_tables(tables)
    assert "loss_mean" not in row_of(content, "p_diff")
    assert {
        "source": "p_diff",
        "method": "soft vote",
        "n_models": 3,
        "accuracy": 0.5,
        "ece": pytest.approx(0.1, abs=1e-5),
    } in content["combination"]
    json.dumps(content, allow_nan=False)


def test_each_rule_of_selection_uses_the_split_it_names(tables):
    for source in ("original", "p_diff"):
        train = scores(
            [0.1] * len(tables[source].vectors_MD), loss=[3.0, 2.0, 1.0, 4.0][: len(tables[source].vectors_MD)]
        )
        tables[source] = replace(tables[source], scores={**tables[source].scores, "train": train})
    rows = summarize_tables(tables)["selection"]
    assert [tuple(row.values()) for row in rows] == [
        ("original", "val_accuracy", 0.80, False),
        ("original", "val_loss", 0.80, False),
        ("original", "train_loss", 0.90, False),
        ("original", "test_accuracy", 0.90, True),
        ("p_diff", "val_accuracy", 0.65, False),
        ("p_diff", "val_loss", 0.65, False),
        ("p_diff", "train_loss", 0.99, False),
        ("p_diff", "test_accuracy", 0.99, True),
    ]
    assert list(rows[0]) == ["source", "chosen_by", "test_accuracy", "uses_test"]


def test_a_rule_whose_split_was_not_scored_has_no_row(tables):
    assert "train_loss" not in {row["chosen_by"] for row in summarize_tables(tables)["selection"]}


def test_the_loss_rule_follows_the_loss_and_not_the_accuracy(tables):
    tables["p_diff"] = replace(
        tables["p_diff"], scores={**tables["p_diff"].scores, "val": scores([0.9, 0.8, 0.1], loss=[0.5, 0.6, 0.4])}
    )
    chosen = {
        row["chosen_by"]: row["test_accuracy"]
        for row in summarize_tables(tables)["selection"]
        if row["source"] == "p_diff"
    }
    assert chosen == {"val_accuracy": 0.75, "val_loss": 0.99, "test_accuracy": 0.99}


def test_combinations_follow_the_model_chosen_on_validation(tables):
    tables["original"] = with_test(
        tables["original"], votes=votes(0.9, np.array([[9], [9], [0.3]]), 0.92), ece_M=np.array([0.4, 0.3, 0.2, 0.1])
    )
    tables["soup_original"] = table("soup_original", scores([0.88], loss=[0.4]), scores([0.9]))
    for source, loss in (("soup_original", 0.35), ("ensemble", 0.14)):
        tables[source] = with_test(tables[source], votes=votes(0.8, loss, 0.85, counts=(1,)))
    assert summarize_tables(tables)["combination"] == [
        {
            "source": "original",
            "method": "one model",
            "n_models": 1,
            "accuracy": 0.80,
        },
        {
            "source": "original",
            "method": "soft vote",
            "n_models": 4,
            "accuracy": 0.9,
            "loss": pytest.approx(0.3),
            "ece": pytest.approx(0.02, abs=1e-5),
        },
        {
            "source": "original",
            "method": "greedy soup",
            "accuracy": 0.8,
            "loss": pytest.approx(0.35),
            "ece": pytest.approx(0.05, abs=1e-5),
        },
        {
            "source": "original",
            "method": "mean of weights",
            "n_models": 4,
            "accuracy": 0.8,
            "loss": pytest.approx(0.14),
            "ece": pytest.approx(0.05, abs=1e-5),
        },
        {"source": "p_diff", "method": "one model", "n_models": 1, "accuracy": 0.65, "loss": pytest.approx(0.35)},
    ]


def test_soups_stand_in_the_group_of_what_they_are_made_of(tables):
    for source in ("original", "p_diff"):
        tables[f"soup_{source}"] = table(f"soup_{source}", scores([0.9]), scores([0.9]))
    content = summarize_tables(tables)
    assert {row["source"]: row["group"] for row in content["table"]} == {
        "original": "original",
        "ensemble": "free",
        "p_diff": "generated",
        "gaussian": "free",
        "soup_original": "free",
        "soup_p_diff": "generated",
    }
    assert [row["source"] for row in content["combination"] if row["method"] == "greedy soup"] == ["original", "p_diff"]


def test_the_stored_kind_decides_the_group(tables):
    tables["continued_late"] = replace(tables["gaussian"], source="continued_late", stored_kind=Kind.TRAINED)
    assert row_of(summarize_tables(tables), "continued_late")["group"] == "trained"


def test_a_worse_model_that_repeats_all_errors_has_a_low_iou_but_a_full_overlap(tables):
    wrong_KN = np.zeros((3, 40), bool)
    wrong_KN[np.arange(3), :4] = wrong_KN[np.arange(3), 10 + np.arange(3)] = True
    worse_MN = np.zeros((2, 40), bool)
    worse_MN[:, :30] = True  # all errors of every original, and many more
    tables["original"] = table("original", Scores(1 - wrong_KN.mean(1), np.ones(3), wrong_KN), scores([0.9] * 3))
    tables["p_diff"] = table("p_diff", Scores(1 - worse_MN.mean(1), np.ones(2), worse_MN), scores([0.2] * 2))
    row = row_of(summarize_tables(tables), "p_diff")
    assert row["max_iou_mean"] == pytest.approx(5 / 30) and row["kappa_mean"] < 0.2
    assert row["overlap_mean"] == row["kappa_relative_mean"] == pytest.approx(1)
    consistency = error_consistency(wrong_KN, wrong_KN, pair_with_others(3))
    original = row_of(summarize_tables(tables), "original")
    assert original["kappa_mean"] == pytest.approx(consistency.kappa_M.mean()) != 1
    assert original["overlap_mean"] == pytest.approx(4 / 5)


def test_a_row_holds_what_was_measured_about_closeness_and_cost(tables):
    far = Closeness("p_diff", 0.25, 0.5, 0.75, 1.5, 0.9, 0.125, Behavior.COPIES)
    alone = Closeness("ensemble", 0.5, None, 0.0, 0.0, None, None, Behavior.AVERAGES)
    content = summarize_tables(
        tables, closeness={"p_diff": far, "ensemble": alone}, costs={"p_diff": 6.0, "ensemble": 0.0}
    )
    keys = ("nearest_relative", "copies", "deviation", "outside_span", "behavior", "gradient_evaluations")
    measured = {source: [row_of(content, source).get(key) for key in keys] for source in tables}
    assert measured["p_diff"] == [0.25, 0.75, 1.5, 0.125, "copies", 6.0]
    assert measured["ensemble"] == [0.5, 0.0, 0.0, None, "averages", 0.0]
    assert measured["original"] == measured["gaussian"] == [None] * 6
    assert json.loads(json.dumps(content, allow_nan=False)) == content
