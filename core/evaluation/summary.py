"""The numbers of metrics.json: the table over sources, the two protocols, choosing a model, and combining models."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from core.evaluation.intervals import Bootstrap, interval
from core.evaluation.kinds import CHOOSABLE, ENSEMBLE, ORIGINAL, PROTOCOL_SOURCES, Kind, soup_of
from core.evaluation.metrics import Spacing, max_iou, min_l2, near_copies, summarize, within_iou
from core.evaluation.scores import Scores, ScoreTable

RULES: dict[str, tuple[str, Callable[[Scores], int]]] = {  # chosen_by -> (split, rule)
    "val_accuracy": ("val", Scores.best),
    "val_loss": ("val", Scores.least_loss),
    "train_loss": ("train", Scores.least_loss),
    "test_accuracy": ("test", Scores.best),
}


def summary(tables: Mapping[str, ScoreTable], bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Return the content of metrics.json, without the seconds and the verdict.

    `paper_protocol` reports the best model *on test*, as the paper does: an optimistic number, since test chose the
    model. `held_out_protocol` chooses on validation and reports that model's test accuracy.

    Args:
        tables: by source.
        bootstrap: over these tables, to share its draws with the verdict; made here if it is not given.
    """
    original, bootstrap = tables[ORIGINAL], bootstrap or Bootstrap(tables)
    spacing = spacing_of(original)
    best, held_out = {}, {}
    for source in PROTOCOL_SOURCES:
        test, val = tables[source].scores["test"], tables[source].scores["val"]
        best[source] = float(test.accuracy_M[test.best()])
        held_out[source] = float(test.accuracy_M[val.best()])
    shown = [table for table in tables.values() if table.kind is not Kind.SOUP]
    return {
        "table": [table_row(table, original, spacing=spacing, bootstrap=bootstrap) for table in shown],
        "paper_protocol": best,
        "held_out_protocol": held_out,
        "selection": selection(tables),
        "combination": combination(tables),
    }


def table_row(
    table: ScoreTable, original: ScoreTable, *, spacing: Spacing | None = None, bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """Compare one source with the originals, on test.

    A measure that has no meaning for the source, or is not finite, is absent.

    Args:
        table: of the source.
        original: of the originals.
        spacing: of the originals, with which their distances are compared.
        bootstrap: for the interval of the mean accuracy.
    """
    same = table.source == original.source
    scores, reference = table.scores["test"], original.scores["test"]
    row: dict[str, Any] = {"source": table.source, **summarize(scores.accuracy_M, scores.metric)}
    if bootstrap is not None and bootstrap.varies(table.source):
        row["accuracy_interval"] = interval(bootstrap.accuracy(table.source))
    row |= known(loss_mean=scores.loss_M.mean(), ece_mean=None if scores.ece_M is None else scores.ece_M.mean())
    alone = len(scores.accuracy_M) == 1
    if same and alone:
        return row
    if scores.wrong_MN is not None:
        row["max_iou_mean"] = float(max_iou(scores.wrong_MN, reference.known_wrong(), same=same).mean())
        if not alone:
            row["within_iou_mean"] = within_iou(scores.wrong_MN)
    return row | distances(min_l2(table.vectors_MD, original.vectors_MD, same=same), spacing, same)


def distances(min_l2_M: np.ndarray, spacing: Spacing | None, same: bool) -> dict[str, float]:
    """Return the distance to the nearest original: plain, in units of the originals' spacing, and as a share.

    The share of near-copies is measured with the originals' own smallest distance, so it says nothing about them.
    """
    if spacing is None:
        return known(min_l2_mean=min_l2_M.mean())
    relative = min_l2_M.mean() / spacing.mean if spacing.mean else None
    return known(
        min_l2_mean=min_l2_M.mean(),
        min_l2_relative_mean=relative,
        near_copies=None if same else near_copies(min_l2_M, spacing),
    )


def spacing_of(original: ScoreTable) -> Spacing | None:
    """Return the spacing of the originals; None where there is only one."""
    return Spacing.of(original.vectors_MD) if len(original.vectors_MD) > 1 else None


def selection(tables: Mapping[str, ScoreTable]) -> list[dict[str, Any]]:
    """Return the test accuracy of the one model that each rule picks; the last is the paper's, which uses test itself.

    The lowest loss on train is what a user without any held-out images could go by. A rule whose split was not
    scored has no row.
    """
    rows = []
    for source, table in tables.items():
        if table.kind not in CHOOSABLE:
            continue
        for chosen_by, (split, rule) in RULES.items():
            if split in table.scores:
                accuracy = float(table.scores["test"].accuracy_M[rule(table.scores[split])])
                rows.append(
                    {"source": source, "chosen_by": chosen_by, "test_accuracy": accuracy, "uses_test": split == "test"}
                )
    return rows


def combination(tables: Mapping[str, ScoreTable]) -> list[dict[str, Any]]:
    """Measure several models of one source used together, on test, beside the one chosen by validation accuracy.

    `n_models` is how many models were voting or averaged; absent for a greedy soup, whose table does not tell. The
    mean of weights is the `ensemble` table: the mean of all originals. A combination that was not scored has no row.
    """
    rows: list[dict[str, Any]] = []
    for source, table in tables.items():
        if table.kind not in CHOOSABLE:
            continue
        test, count = table.scores["test"], len(table.vectors_MD)
        chosen = one_model(test, table.scores["val"].best())
        rows.append({"source": source, "method": "one model", "n_models": 1, **chosen})
        if test.vote is not None:
            vote = known(accuracy=test.vote.accuracy, loss=test.vote.loss, ece=test.vote.ece)
            rows.append({"source": source, "method": "soft vote", "n_models": count, **vote})
        if (soup := tables.get(soup_of(source))) is not None:
            rows.append({"source": source, "method": "greedy soup", **one_model(soup.scores["test"], 0)})
        if table.kind is Kind.ORIGINAL:
            mean = one_model(tables[ENSEMBLE].scores["test"], 0)
            rows.append({"source": source, "method": "mean of weights", "n_models": count, **mean})
    return rows


def one_model(scores: Scores, index: int) -> dict[str, float]:
    """Return accuracy, loss and calibration error of one model."""
    return known(
        accuracy=scores.accuracy_M[index],
        loss=scores.loss_M[index],
        ece=None if scores.ece_M is None else scores.ece_M[index],
    )


def known(**measures: float | None) -> dict[str, float]:
    """Keep the measures that were computed and are finite, as JSON numbers: a diverged model has no loss to report."""
    return {name: float(value) for name, value in measures.items() if value is not None and math.isfinite(value)}
