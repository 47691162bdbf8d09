"""The numbers of metrics.json: the table over sources, the two protocols, how a model is chosen, and how models combine."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from core.evaluation.intervals import Bootstrap, interval
from core.evaluation.metrics import Spacing, best_on, least_loss_on, max_iou, min_l2, near_copies, summarize, within_iou
from core.evaluation.scores import Scores, ScoreTable

PROTOCOL_SOURCES = ("original", "ensemble", "p_diff")  # the columns of the paper's table
CHOOSABLE = ("original", "p_diff")  # sources of many models, of which a user picks or combines some
SOUP = "soup_"  # prefix of the sources that are one greedy soup of the models of another
RULES: dict[str, tuple[str, Callable[..., int]]] = {  # chosen_by -> (split, rule)
    "val_accuracy": ("val", best_on),
    "val_loss": ("val", least_loss_on),
    "train_loss": ("train", least_loss_on),
    "test_accuracy": ("test", best_on),
}


def summary(tables: Mapping[str, ScoreTable], bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """The content of metrics.json, without the seconds and the verdict.

    `paper_protocol` reports the best model *on test*, as the paper does: an optimistic number, since test chose the
    model. `held_out_protocol` chooses on validation and reports that model's test accuracy.

    Args:
        bootstrap: over these tables, to share its draws with the verdict; made here if it is not given.
    """
    original, bootstrap = tables["original"], bootstrap or Bootstrap(tables)
    spacing = spacing_of(original)
    protocols: dict[str, dict[str, float]] = {"paper_protocol": {}, "held_out_protocol": {}}
    for source in PROTOCOL_SOURCES:
        test, val = tables[source].scores["test"], tables[source].scores["val"]
        protocols["paper_protocol"][source] = float(test.accuracy_M.max())
        protocols["held_out_protocol"][source] = float(test.accuracy_M[best_on(val.accuracy_M, val.loss_M)])
    rows = [
        table_row(table, original, spacing, bootstrap)
        for source, table in tables.items()
        if not source.startswith(SOUP)
    ]
    return {"table": rows, **protocols, "selection": selection(tables), "combination": combination(tables)}


def table_row(
    table: ScoreTable, original: ScoreTable, spacing: Spacing | None = None, bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """One source against the originals, on test. A measure that has no meaning for it, or is not finite, is absent.

    Args:
        spacing: of the originals, with which their distances are compared.
        bootstrap: for the interval of the mean accuracy.
    """
    same = table.source == original.source
    scores, reference = table.scores["test"], original.scores["test"]
    row = {"source": table.source, **summarize(scores.accuracy_M)}
    if bootstrap is not None and bootstrap.varies(table.source):
        row["accuracy_interval"] = interval(bootstrap.accuracy(table.source))
    row |= known(loss_mean=scores.loss_M.mean(), ece_mean=None if scores.ece_M is None else scores.ece_M.mean())
    alone = len(scores.accuracy_M) == 1
    if same and alone:
        return row
    if scores.wrong_MN is not None:
        row["max_iou_mean"] = float(max_iou(scores.wrong_MN, reference.wrong_MN, same=same).mean())
        if not alone:
            row["within_iou_mean"] = within_iou(scores.wrong_MN)
    return row | distances(min_l2(table.vectors_MD, original.vectors_MD, same=same), spacing, same)


def distances(min_l2_M: Any, spacing: Spacing | None, same: bool) -> dict[str, float]:
    """How far the models are from the nearest original: plain, in units of the originals' spacing, and as a share.

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
    """Of the originals; None where there is only one."""
    return Spacing.of(original.vectors_MD) if len(original.vectors_MD) > 1 else None


def selection(tables: Mapping[str, ScoreTable]) -> list[dict[str, Any]]:
    """Test accuracy of the one model that each rule picks; the last rule is the paper's, which uses test itself.

    The lowest loss on train is what a user without any held-out images could go by. A rule whose split was not
    scored has no row.
    """
    rows = []
    for source in CHOOSABLE:
        scores = tables[source].scores
        for chosen_by, (split, rule) in RULES.items():
            if split in scores:
                chosen = rule(scores[split].accuracy_M, scores[split].loss_M)
                accuracy = float(scores["test"].accuracy_M[chosen])
                rows.append(
                    {"source": source, "chosen_by": chosen_by, "test_accuracy": accuracy, "uses_test": split == "test"}
                )
    return rows


def combination(tables: Mapping[str, ScoreTable]) -> list[dict[str, Any]]:
    """What several models of one source are worth together, on test, beside the one chosen by validation accuracy.

    `n_models` is how many models were voting or averaged; absent for a greedy soup, whose table does not tell. The
    mean of weights is the `ensemble` table: the mean of all originals. A combination that was not scored has no row.
    """
    rows = []
    for source in CHOOSABLE:
        test, val, count = tables[source].scores["test"], tables[source].scores["val"], len(tables[source].vectors_MD)
        rows.append(
            {
                "source": source,
                "method": "one model",
                "n_models": 1,
                **one_model(test, best_on(val.accuracy_M, val.loss_M)),
            }
        )
        if test.vote is not None:
            vote = known(accuracy=test.vote.accuracy, loss=test.vote.loss, ece=test.vote.ece)
            rows.append({"source": source, "method": "soft vote", "n_models": count, **vote})
        if SOUP + source in tables:
            rows.append(
                {"source": source, "method": "greedy soup", **one_model(tables[SOUP + source].scores["test"], 0)}
            )
        if source == "original":
            rows.append(
                {
                    "source": source,
                    "method": "mean of weights",
                    "n_models": count,
                    **one_model(tables["ensemble"].scores["test"], 0),
                }
            )
    return rows


def one_model(scores: Scores, index: int) -> dict[str, float]:
    """Accuracy, loss and calibration error of one model."""
    return known(
        accuracy=scores.accuracy_M[index],
        loss=scores.loss_M[index],
        ece=None if scores.ece_M is None else scores.ece_M[index],
    )


def known(**measures: float | None) -> dict[str, float]:
    """The measures that were computed and are finite, as JSON numbers: a diverged model has no loss to report."""
    return {name: float(value) for name, value in measures.items() if value is not None and math.isfinite(value)}
