"""The numbers of metrics.json: the table of sources, both protocols, selection of a model and combination of models."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from core.evaluation.calibration import measure_calibration_error
from core.evaluation.copying import Closeness
from core.evaluation.groups import find_group
from core.evaluation.intervals import Bootstrap, percentile_interval
from core.evaluation.kinds import CHOOSABLE, DEEP_ENSEMBLE, ENSEMBLE, ORIGINAL, PROTOCOL_SOURCES, Kind, name_soup
from core.evaluation.metrics import Spacing, min_l2, near_copies, summarize, within_iou
from core.evaluation.scores import Scores, ScoreTable, Votes
from core.evaluation.selection import measure_selections, pick_held_out


def summarize_tables(
    tables: Mapping[str, ScoreTable],
    bootstrap: Bootstrap | None = None,
    *,
    closeness: Mapping[str, Closeness] | None = None,
    costs: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the content of metrics.json without the seconds and the verdict.

    `paper_protocol` reports the test accuracy of the model that is best *on test*, as the paper does. This number is
    optimistic, because the test images choose the model. `held_out_protocol` chooses the model by
    `core.evaluation.selection.HELD_OUT_RULE`, without test images.

    Args:
        tables: Score tables by source.
        bootstrap: Bootstrap over these tables, given to share its draws and measures with the verdict; None makes a
            new one.
        closeness: Closeness to the originals by source, if it was measured.
        costs: Gradient evaluations per model by source, where they are known.
    """
    original, bootstrap = tables[ORIGINAL], bootstrap or Bootstrap(tables)
    closeness, costs = closeness or {}, costs or {}
    spacing = measure_spacing(original)
    best, held_out = {}, {}
    for source in PROTOCOL_SOURCES:
        test = tables[source].scores["test"]
        best[source] = float(test.accuracy_M[test.pick_best()])
        held_out[source] = float(test.accuracy_M[pick_held_out(tables[source])])
    return {
        **original.scores["test"].metric.write(),
        "table": [
            make_table_row(table, original, bootstrap, spacing=spacing)
            | keep_finite(gradient_evaluations=costs.get(source))
            | describe_closeness(closeness.get(source))
            for source, table in tables.items()
        ],
        "paper_protocol": best,
        "held_out_protocol": held_out,
        "selection": measure_selections(tables),
        "combination": measure_combinations(tables),
    }


def make_table_row(
    table: ScoreTable, original: ScoreTable, bootstrap: Bootstrap, *, spacing: Spacing | None = None
) -> dict[str, Any]:
    """Return the measures of one source on test, some of them relative to the originals.

    A measure is absent if it is not defined for the source or not finite. The networks of a deep ensemble have no
    distance to the originals, because their subsets belong to other networks.

    Args:
        table: Score table of the source.
        original: Score table of the originals.
        bootstrap: Bootstrap for the interval of the mean accuracy, which also measures the similarity of errors.
        spacing: Spacing of the originals, which scales distances to them; None leaves scaled distances out.
    """
    same = table.source == original.source
    scores = table.scores["test"]
    row: dict[str, Any] = {
        "source": table.source,
        "group": find_group(table.source, table.kind).value,
        **summarize(scores.accuracy_M, scores.metric),
    }
    if bootstrap.varies(table.source):
        row["accuracy_interval"] = percentile_interval(bootstrap.draw_accuracy(table.source))
    row |= keep_finite(loss_mean=scores.loss_M.mean(), ece_mean=None if scores.ece_M is None else scores.ece_M.mean())
    single = len(scores.accuracy_M) == 1
    if same and single:
        return row
    row |= bootstrap.measure_similarity(table.source)
    if scores.wrong_MN is not None and not single:
        row["within_iou_mean"] = within_iou(scores.wrong_MN)
    if table.source == DEEP_ENSEMBLE:
        return row
    return row | measure_distances(min_l2(table.vectors_MD, original.vectors_MD, same=same), spacing, same)


def describe_closeness(closeness: Closeness | None) -> dict[str, Any]:
    """Return the closeness to the originals in weights, and what it shows the models to be; empty if not measured."""
    if closeness is None:
        return {}
    numbers = keep_finite(
        nearest_relative=closeness.weights,
        copies=closeness.copies,
        deviation=closeness.deviation,
        outside_span=closeness.outside_span,
    )
    return numbers | {"behavior": closeness.behavior.value}


def measure_distances(min_l2_M: np.ndarray, spacing: Spacing | None, same: bool) -> dict[str, float]:
    """Return the mean distance to the nearest original, plain and relative to the spacing, and the near-copies.

    The share of near-copies is left out for the originals (`same`), because their own distances define a near-copy.
    """
    if spacing is None:
        return keep_finite(min_l2_mean=min_l2_M.mean())
    relative = min_l2_M.mean() / spacing.mean if spacing.mean else None
    return keep_finite(
        min_l2_mean=min_l2_M.mean(),
        min_l2_relative_mean=relative,
        near_copies=None if same else near_copies(min_l2_M, spacing),
    )


def measure_spacing(original: ScoreTable) -> Spacing | None:
    """Return the spacing of the originals, or None if there is only one."""
    return Spacing.measure(original.vectors_MD) if len(original.vectors_MD) > 1 else None


def measure_combinations(tables: Mapping[str, ScoreTable]) -> list[dict[str, Any]]:
    """Return test scores of several models of one source used together, next to the best model on validation.

    `n_models` counts the models that vote or are averaged. It is absent for a greedy soup, whose table does not store
    it. "mean of weights" is the source `ensemble`, the mean of all originals. A combination has no row if it was not
    scored. Losses and calibration errors are those of votes at temperatures fitted on validation, because they are
    comparable only there. The model chosen from several has neither, because it has no temperature of its own. If the
    task does not define votes, no loss has a temperature.
    """
    rows: list[dict[str, Any]] = []
    for source, table in tables.items():
        if table.kind not in CHOOSABLE:
            continue
        test, count = table.scores["test"], len(table.vectors_MD)
        chosen = measure_chosen(test, pick_held_out(table))
        rows.append({"source": source, "method": "one model", "n_models": 1, **chosen})
        if test.votes is not None:
            rows.append({"source": source, "method": "soft vote", "n_models": count, **measure_vote(test.votes)})
        if (soup := tables.get(name_soup(source))) is not None:
            rows.append({"source": source, "method": "greedy soup", **measure_only(soup.scores["test"])})
        if table.kind is Kind.ORIGINAL:
            mean = measure_only(tables[ENSEMBLE].scores["test"])
            rows.append({"source": source, "method": "mean of weights", "n_models": count, **mean})
    return rows


def measure_vote(votes: Votes) -> dict[str, float]:
    """Return accuracy, loss and calibration error of the vote of all models."""
    ece_P = measure_calibration_error(votes.confidence_PN[-1:], votes.wrong_PN[-1:])
    return keep_finite(accuracy=(~votes.wrong_PN[-1]).mean(), loss=votes.loss_PN[-1].mean(), ece=ece_P[0])


def measure_chosen(scores: Scores, index: int) -> dict[str, float]:
    """Return the measures of the model at `index`, which was chosen from the models of a source.

    If the task defines votes, a source of several models has a temperature for their vote alone, so the chosen model
    has neither a loss nor a calibration error.
    """
    if len(scores.accuracy_M) == 1:
        return measure_only(scores)
    if scores.votes is not None:
        return keep_finite(accuracy=scores.accuracy_M[index])
    return measure_as_scored(scores, index)


def measure_only(scores: Scores) -> dict[str, float]:
    """Return the measures of the only model of a source: as a vote of one, or as scored if there are no votes."""
    return measure_vote(scores.votes) if scores.votes is not None else measure_as_scored(scores, 0)


def measure_as_scored(scores: Scores, index: int) -> dict[str, float]:
    """Return accuracy, loss and calibration error of the model at `index`, without a temperature."""
    ece = None if scores.ece_M is None else scores.ece_M[index]
    return keep_finite(accuracy=scores.accuracy_M[index], loss=scores.loss_M[index], ece=ece)


def keep_finite(**measures: float | None) -> dict[str, float]:
    """Return the measures that are neither None nor infinite nor NaN as JSON numbers."""
    return {name: float(value) for name, value in measures.items() if value is not None and math.isfinite(value)}
