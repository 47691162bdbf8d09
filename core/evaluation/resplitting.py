"""Rules for choosing a model compared on many random splits of the held-out items into validation and test.

Q split seeds · M models · G groups of items.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from core.evaluation.resampling import Groups
from core.evaluation.scores import ScoreTable
from core.evaluation.selection import RULES, RepeatedScores, sum_by_group
from core.runtime.seeding import derive_seed

NO_CHOICE = "no choice"  # the mean of all models, which a pick at random gets on average


def compare_on_splits(tables: Sequence[ScoreTable], num_splits: int) -> dict[str, np.ndarray]:
    """Return the test accuracy of each rule's pick by rule, (runs, Q), for tables of one source from several runs.

    Rules that use test items are left out. All runs share the split seeds, so that runs on the same items share the
    splits. Validation and test items need errors and losses of each model on each item.
    """
    measured = [measure_on_splits(table, num_splits) for table in tables]
    shared = [rule for rule in measured[0] if all(rule in each for each in measured)]
    return {rule: np.stack([each[rule] for each in measured]) for rule in shared}


def measure_on_splits(table: ScoreTable, num_splits: int) -> Mapping[str, np.ndarray]:
    """Return the test accuracy of each rule's pick by rule, (Q,), and that of all models as `NO_CHOICE`.

    Validation and test items are pooled and split at random, in whole groups and with the number of validation groups
    of the table.
    """
    sums, sizes, counts = [], [], []
    for split in ("val", "test"):
        scores = table.scores[split]
        groups = Groups.index(scores.require_wrong().shape[1], scores.groups_N)
        sums.append(np.stack(sum_by_group(scores, groups)))
        sizes.append(groups.sizes_G)
        counts.append(len(groups))
    sums_2MG, sizes_G = np.concatenate(sums, axis=2), np.concatenate(sizes)
    in_val_QG = np.array(
        [
            np.random.default_rng(derive_seed(seed, "resplit")).permutation(sum(counts)) < counts[0]
            for seed in range(num_splits)
        ]
    )
    val, test = (score_members(sums_2MG, sizes_G, in_split_QG) for in_split_QG in (in_val_QG, ~in_val_QG))
    measured = {NO_CHOICE: test.accuracy_RM.mean(axis=1)}
    for name, (split, rule) in RULES.items():
        if split == "val":
            measured[name] = test.accuracy_RM[np.arange(num_splits), val.pick_each(rule)]
        elif split != "test" and split in table.scores:
            measured[name] = test.accuracy_RM[:, rule(table.scores[split])]
    return measured


def score_members(sums_2MG: np.ndarray, sizes_G: np.ndarray, member_QG: np.ndarray) -> RepeatedScores:
    """Return accuracy and loss of all models on each set of groups."""
    members_QG = member_QG.astype(np.float64)
    right_QM, loss_QM = (members_QG @ sums_MG.T / (members_QG @ sizes_G)[:, None] for sums_MG in sums_2MG)
    return RepeatedScores(right_QM, loss_QM)
