"""metrics.json: what each row holds, and who chose the best model."""

import json

import numpy as np
import pytest

from core.evaluation.metrics import max_iou, min_l2, within_iou
from core.evaluation.summary import summary, table_row
from tests.core.evaluation.tables import scores, table


@pytest.fixture
def tables():
    """The model that is best on validation is not the one that is best on test."""
    return {
        "original": table("original", scores([0.70, 0.80, 0.90, 0.60], seed=1), scores([0.8, 0.95, 0.7, 0.6], seed=2), seed=1),
        "ensemble": table("ensemble", scores([0.85], seed=3), scores([0.5], seed=4), seed=2),
        "p_diff": table("p_diff", scores([0.75, 0.65, 0.99], seed=5), scores([0.9, 0.9, 0.1], loss=[0.5, 0.4, 9.0], seed=6), seed=3),
        "gaussian": table("gaussian", scores([0.5, 0.6], seed=7), seed=4),
    }


def test_the_papers_protocol_reports_the_best_on_test(tables):
    assert summary(tables)["paper_protocol"] == {"original": 0.90, "ensemble": 0.85, "p_diff": 0.99}


def test_the_held_out_protocol_chooses_on_validation_and_reports_on_test(tables):
    assert summary(tables)["held_out_protocol"] == {"original": 0.80, "ensemble": 0.85, "p_diff": 0.65}


def test_there_is_one_row_per_source_in_their_order(tables):
    rows = summary(tables)["table"]
    assert [(row["source"], row["n"]) for row in rows] == [("original", 4), ("ensemble", 1), ("p_diff", 3), ("gaussian", 2)]


def test_a_row_compares_with_the_originals_on_test(tables):
    row, scored, original = table_row(tables["p_diff"], tables["original"]), tables["p_diff"].scores["test"], tables["original"]
    assert row["accuracy_mean"] == pytest.approx(np.mean([0.75, 0.65, 0.99])) and row["accuracy_best"] == 0.99
    assert row["loss_mean"] == pytest.approx(scored.loss_M.mean())
    assert row["max_iou_mean"] == pytest.approx(max_iou(scored.wrong_MN, original.scores["test"].wrong_MN).mean())
    assert row["within_iou_mean"] == pytest.approx(within_iou(scored.wrong_MN))
    assert row["min_l2_mean"] == pytest.approx(min_l2(tables["p_diff"].vectors_MD, original.vectors_MD).mean())


def test_the_originals_are_compared_with_the_other_originals(tables):
    row = table_row(tables["original"], tables["original"])
    assert row["max_iou_mean"] < 1 and row["min_l2_mean"] > 0


def test_a_copy_of_the_originals_under_another_name_is_fully_similar(tables):
    copied = table("reconstructed", tables["original"].scores["test"], seed=1)
    row = table_row(copied, tables["original"])
    assert row["max_iou_mean"] == 1 and row["min_l2_mean"] == 0


def test_one_model_has_neither_a_spread_nor_a_similarity_within(tables):
    row = table_row(tables["ensemble"], tables["original"])
    assert {"accuracy_std", "within_iou_mean"}.isdisjoint(row) and {"max_iou_mean", "min_l2_mean"} <= row.keys()


def test_a_task_without_right_and_wrong_images_has_no_similarity(tables):
    originals = table("original", scores([0.5, 0.6], with_wrong=False))
    row = table_row(table("p_diff", scores([0.5, 0.6], with_wrong=False), seed=9), originals)
    assert {"max_iou_mean", "within_iou_mean"}.isdisjoint(row) and row["min_l2_mean"] > 0


def test_it_is_plain_json_without_nan(tables):
    content = summary(tables)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
