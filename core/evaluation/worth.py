"""What the models of a source are worth together: the quality of the soft vote of the first n models, for several n.

P numbers of voting models · N images · G groups of images · S sums over images · R bootstrap draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from core.evaluation.calibration import measure_calibration_error
from core.evaluation.intervals import percentile_interval
from core.evaluation.kinds import DEEP_ENSEMBLE
from core.evaluation.resampling import Groups, draw_means
from core.evaluation.scores import ScoreTable, Votes
from core.evaluation.summary import keep_finite
from core.runtime.seeding import derive_seed

DRAWS = 2000


def measure_worth(tables: Mapping[str, ScoreTable], seed: int = 0) -> list[dict[str, Any]]:
    """Return the test scores of the soft vote of the first n models, one row per source and n.

    A source has no rows if its models did not vote on validation, because its temperature is unknown then. A measure is
    absent if it is not defined or not finite. Where all voting models give NaN, the vote counts as wrong with
    confidence 0, and `loss`, `brier` and `ece` are absent.

    * `loss` is the mean negative log-likelihood in nats at `temperature`, which was fitted on validation after the
      probabilities were averaged (Ashukha et al. 2020). The measures below use this temperature, too.
    * `brier` is the squared error of the probabilities, summed over classes.
    * `ece` is the expected calibration error with 15 bins (Guo et al. 2017, Eq. 3).
    * `aurc` is the area under the risk-coverage curve (`measure_risk_coverage`).
    * `disagreement` is the share of pairs of voting models that predict different classes. One model has none.
    * `auroc` holds one value for each set of images that belong to no class: the probability that the vote is more
      confident on a test image than on an image of the set.
    * `equivalent` is the number of deep-ensemble members that are worth as much (`find_equivalent`). It is absent if
      no deep ensemble was trained.
    * `accuracy_interval` and `loss_interval` are 95% intervals over test images, of which whole groups are resampled.
      They leave out the choice and the order of the models, and the error of the temperature.

    Args:
        tables: Score tables by source, all scored on the same test images.
        seed: Seed of the draws. All sources share the resampled images, so their curves move together.
    """
    deep = tables[DEEP_ENSEMBLE].scores["test"].votes if DEEP_ENSEMBLE in tables else None
    return [row for table in tables.values() for row in measure_votes(table, deep, seed)]


def measure_votes(table: ScoreTable, deep: Votes | None, seed: int) -> list[dict[str, Any]]:
    """Return the rows of `measure_worth` for one source.

    Args:
        table: Score table of the source.
        deep: Votes of the deep ensemble; None if none was trained.
        seed: Seed of the draws.
    """
    scores = table.scores["test"]
    if (votes := scores.votes) is None or "val" not in table.scores:
        return []
    ece_P = measure_calibration_error(votes.confidence_PN, votes.wrong_PN)
    confidence_PN = np.nan_to_num(votes.confidence_PN)
    groups = Groups.index(votes.wrong_PN.shape[1], scores.groups_N)
    sums_SG = groups.sum(np.concatenate([~votes.wrong_PN, votes.loss_PN]))
    draws_RS = draw_means(sums_SG, groups.sizes_G, DRAWS, derive_seed(seed, "worth"))
    accuracy_RP, loss_RP = np.split(draws_RS, 2, axis=1)
    rows = []
    for index, count in enumerate(votes.counts_P.tolist()):
        confidence_N, wrong_N = confidence_PN[index], votes.wrong_PN[index]
        loss = float(votes.loss_PN[index].mean(dtype=np.float64))
        row: dict[str, Any] = {"source": table.source, "n_models": count} | keep_finite(
            accuracy=1 - wrong_N.mean(),
            loss=loss,
            temperature=votes.temperature_P[index],
            brier=votes.brier_PN[index].mean(dtype=np.float64),
            ece=ece_P[index],
            aurc=measure_risk_coverage(confidence_N, wrong_N),
            disagreement=votes.disagreement_PN[index].mean(dtype=np.float64),
        )
        row["accuracy_interval"] = percentile_interval(accuracy_RP[:, index])
        row["auroc"] = {
            name: measure_separation(confidence_N, np.nan_to_num(other_PN[index]))
            for name, other_PN in table.ood.items()
        }
        if "loss" in row:
            row["loss_interval"] = percentile_interval(loss_RP[:, index])
            row |= {} if deep is None else {"equivalent": find_equivalent(loss, deep)}
        rows.append(row)
    return rows


def measure_risk_coverage(confidence_N: np.ndarray, wrong_N: np.ndarray) -> float:
    """Return the area under the risk-coverage curve in [0, 1]; lower is better (Geifman & El-Yaniv 2017).

    If predictions are made only for the c most confident images, the risk is the share of wrong ones among them. The
    area is the mean risk over c = 1, …, N. Images of equal confidence count as taken in random order, so each of
    them has the mean error of all of them.
    """
    _, tie_N, sizes = np.unique(-confidence_N, return_inverse=True, return_counts=True)
    errors = np.bincount(tie_N, weights=wrong_N) / sizes  # mean error at each confidence, the highest first
    risk_N = np.repeat(errors, sizes).cumsum() / np.arange(1, len(wrong_N) + 1)
    return float(risk_N.mean())


def measure_separation(confidence_N: np.ndarray, other_confidence_N: np.ndarray) -> float:
    """Return the area under the ROC curve with which the confidence tells test images from other images.

    A value of 1 means that every test image has the higher confidence, and 0.5 that the confidence tells nothing.
    """
    is_test = np.repeat([True, False], [len(confidence_N), len(other_confidence_N)])
    return float(roc_auc_score(is_test, np.concatenate([confidence_N, other_confidence_N])))


def find_equivalent(loss: float, deep: Votes) -> float | str:
    """Return the deep-ensemble equivalent of a loss, the number of deep-ensemble members that reach it.

    It is the smallest real number l of at least 1 at which the calibrated loss of the deep ensemble is not above `loss`
    (Ashukha et al. 2020). Their curve is the mean of many deep ensembles. Here it is that of one deep ensemble, linear
    between the numbers of members that voted, so a difference of less than one member is within its chance.

    Returns:
        A number from 1 to R, the size of the deep ensemble. A source that is worse than one member has 1, too. The
        text ">R", such as ">5", if the whole deep ensemble does not reach the loss.
    """
    counts_P, loss_P = deep.counts_P, deep.loss_PN.mean(axis=1, dtype=np.float64)
    reaching = np.flatnonzero(loss_P <= loss)
    if not len(reaching):
        return f">{counts_P[-1]}"
    if (end := int(reaching[0])) == 0:
        return float(counts_P[0])
    pair = slice(end - 1, end + 1)
    return float(np.interp(-loss, -loss_P[pair], counts_P[pair]))
