"""The choice of one model of a source: the rules, the model that each picks, and what a user gets from each.

R bootstrap draws · M models · N items.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from core.evaluation.intervals import percentile_interval
from core.evaluation.kinds import CHOOSABLE
from core.evaluation.resampling import ENTRIES, Groups, draw_counts, draw_means
from core.evaluation.scores import ACCURACY, Scores, ScoreTable
from core.runtime.seeding import derive_seed

Rule = Callable[[Scores], int]  # scores of several models -> the index of one of them
RULES: dict[str, tuple[str, Rule]] = {  # chosen_by -> (split, rule)
    "val_accuracy": ("val", Scores.pick_best),
    "val_loss": ("val", Scores.pick_least_loss),
    "train_loss": ("train", Scores.pick_least_loss),
    "test_accuracy": ("test", Scores.pick_best),
}
# Of the rules that `python -m scripts.compare_rules` compares, this one chose the most accurate models on the digits.
HELD_OUT_RULE = "val_loss"
DRAWS = 2000  # Another seed then moves an end of a 95% interval by about 3% of the half width.


def pick_held_out(table: ScoreTable) -> int:
    """Return the index of the model that `HELD_OUT_RULE` picks; a single model needs no scores on the rule's split."""
    split, rule = RULES[HELD_OUT_RULE]
    return 0 if len(table.vectors_MD) == 1 else rule(table.scores[split])


def measure_selections(tables: Mapping[str, ScoreTable], seed: int = 0) -> list[dict[str, Any]]:
    """Return what each rule of `RULES` yields, one row per source and rule.

    `test_accuracy` is the test accuracy of the model that the rule picks. One pick is partly luck, so each row also has
    the mean over resampled choices (`expected_accuracy`) and their 95% interval (`expected_interval`), as
    `resample_choices` describes them. Both are absent if a split was scored without errors or losses of each model on
    each item. The rule `train_loss` needs no held-out images. The rule `test_accuracy` is the paper's and picks on the
    test images themselves. A rule has no row if its split was not scored.

    Args:
        tables: Score tables by source.
        seed: Seed of the resampled choices.
    """
    rows = []
    for source, table in tables.items():
        if table.kind not in CHOOSABLE:
            continue
        expected = resample_choices(table, seed)
        for chosen_by, (split, rule) in RULES.items():
            if split in table.scores:
                accuracy = float(table.scores["test"].accuracy_M[rule(table.scores[split])])
                rows.append(
                    {
                        "source": source,
                        "chosen_by": chosen_by,
                        "test_accuracy": accuracy,
                        "uses_test": split == "test",
                        **expected.get(chosen_by, {}),
                    }
                )
    return rows


def resample_choices(table: ScoreTable, seed: int, draws: int = DRAWS) -> dict[str, dict[str, Any]]:
    """Return mean and interval of the test accuracy that a user gets from each rule, by the name of the rule.

    In each draw, the models on offer and the items of the rule's split are bootstrap samples, and the rule picks from
    them. The mean is over the test accuracies of the picks. For the interval, the test items are resampled, too. It
    therefore holds what one user may get, and not how well the mean is known. The mean is taken over all test items as
    they are. The numbers of the rule `test_accuracy` are optimistic, because its picks fit the test items that measure
    them. In its interval, the picks are even measured on the very items that were resampled for the choice.

    A rule is left out if its split lacks losses or errors of each model on each item.
    """
    resampled = {
        split: resample_scores(scores, derive_seed(seed, f"selection {split}"), draws)
        for split, scores in table.scores.items()
        if is_itemized(scores)
    }
    if "test" not in resampled:
        return {}
    accuracy_M, tested_RM = table.scores["test"].accuracy_M, resampled["test"].accuracy_RM
    random = np.random.default_rng(derive_seed(seed, f"selection models {table.source}"))
    offers = [np.flatnonzero(counts_M) for counts_M in draw_counts(len(accuracy_M), draws, random)]
    expected = {}
    for chosen_by, (split, rule) in RULES.items():
        if split in resampled:
            picks_R = resampled[split].pick_each(rule, offers)
            expected[chosen_by] = {
                "expected_accuracy": float(accuracy_M[picks_R].mean()),
                "expected_interval": percentile_interval(tested_RM[np.arange(draws), picks_R]),
            }
    return expected


class RepeatedScores(NamedTuple):
    """The scores of M models on R sets of items."""

    accuracy_RM: np.ndarray
    loss_RM: np.ndarray

    def pick_each(self, rule: Rule, offers: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Return the index of the model that a rule picks on each set (R,).

        Args:
            rule: Rule that picks one model.
            offers: Indices of the models on offer, for each set; None offers all models.
        """
        offers = offers or [np.arange(self.accuracy_RM.shape[1])] * len(self.accuracy_RM)
        picks = [
            offer[rule(Scores(accuracy_M[offer], loss_M[offer], None))]
            for accuracy_M, loss_M, offer in zip(*self, offers, strict=True)
        ]
        return np.array(picks)


def is_itemized(scores: Scores) -> bool:
    """Return whether errors and losses of each model on each item are known, and define the primary metric."""
    return scores.metric == ACCURACY and scores.wrong_MN is not None and scores.loss_MN is not None


def sum_by_group(scores: Scores, groups: Groups, models: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of right items and the sum of losses, for each model and group, two arrays (M, G).

    A loss that is not finite counts as the largest number of its type, so that it cannot hide other losses.

    Raises:
        ValueError: The primary metric is not the share of right items, or errors or losses per item are unknown.
    """
    if not is_itemized(scores):
        raise ValueError(f"{scores.metric.name} is no mean over items with known errors and losses, as accuracy is")
    wrong_MN, loss_MN = scores.require_wrong()[models], np.asarray(scores.loss_MN)[models]
    largest = np.finfo(loss_MN.dtype).max
    return groups.sum(~wrong_MN), groups.sum(np.nan_to_num(loss_MN, nan=largest, posinf=largest))


def resample_scores(scores: Scores, seed: int, draws: int) -> RepeatedScores:
    """Return the scores of all models on bootstrap samples of the items, drawn in groups."""
    num_models, num_items = scores.require_wrong().shape
    groups, rows = Groups.index(num_items, scores.groups_N), max(1, ENTRIES // num_items)
    parts = []
    for start in range(0, num_models, rows):  # Some models at a time, to bound memory.
        sums = np.concatenate(sum_by_group(scores, groups, slice(start, start + rows)))
        parts.append(np.split(draw_means(sums, groups.sizes_G, draws, seed), 2, axis=1))
    return RepeatedScores(*(np.hstack(columns) for columns in zip(*parts, strict=True)))
