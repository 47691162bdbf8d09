"""The numbers of metrics.json: the table over sources, and the two protocols."""

from collections.abc import Mapping
from typing import Any

from core.evaluation.metrics import best_on, max_iou, min_l2, summarize, within_iou
from core.evaluation.scores import ScoreTable

PROTOCOL_SOURCES = ("original", "ensemble", "p_diff")  # the columns of the paper's table


def table_row(table: ScoreTable, original: ScoreTable) -> dict[str, Any]:
    """One source against the originals, on test. A measure that has no meaning for it is absent."""
    same = table.source == original.source
    scores, reference = table.scores["test"], original.scores["test"]
    row = {"source": table.source, **summarize(scores.accuracy_M), "loss_mean": float(scores.loss_M.mean())}
    if scores.wrong_MN is not None:
        row["max_iou_mean"] = float(max_iou(scores.wrong_MN, reference.wrong_MN, same=same).mean())
        if len(scores.wrong_MN) > 1:
            row["within_iou_mean"] = within_iou(scores.wrong_MN)
    row["min_l2_mean"] = float(min_l2(table.vectors_MD, original.vectors_MD, same=same).mean())
    return row


def summary(tables: Mapping[str, ScoreTable]) -> dict[str, Any]:
    """The content of metrics.json, without the seconds.

    `paper_protocol` reports the best model *on test*, as the paper does: an optimistic number, since test chose the
    model. `held_out_protocol` chooses on validation and reports that model's test accuracy.
    """
    original = tables["original"]
    protocols: dict[str, dict[str, float]] = {"paper_protocol": {}, "held_out_protocol": {}}
    for source in PROTOCOL_SOURCES:
        test, val = tables[source].scores["test"], tables[source].scores["val"]
        protocols["paper_protocol"][source] = float(test.accuracy_M.max())
        protocols["held_out_protocol"][source] = float(test.accuracy_M[best_on(val.accuracy_M, val.loss_M)])
    return {"table": [table_row(table, original) for table in tables.values()], **protocols}
