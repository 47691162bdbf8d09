"""The audit, which turns score tables into the verdict."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import numpy as np

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.symmetry import PermutationSymmetry
from core.evaluation.copying import Closeness, measure_closeness, select_finite
from core.evaluation.decisions import (
    Measured,
    are_copies,
    decide_answer,
    decide_difference,
    decide_novelty,
    find_contender,
    find_doubt,
    find_least_p_of_accuracy,
    find_least_p_of_similarity,
    find_rival,
    is_not_inferior,
)
from core.evaluation.groups import Group, find_group
from core.evaluation.intervals import Bootstrap, control_false_discoveries
from core.evaluation.kinds import CONTINUED, DEEP_ENSEMBLE, GENERATED, HELD_OUT, ORIGINAL, RECONSTRUCTED, Kind
from core.evaluation.margins import IOU, RELATIVE_KAPPA, Similarity
from core.evaluation.matched_distances import align_all, find_center
from core.evaluation.metrics import variance_kept
from core.evaluation.scores import ScoreTable
from core.evaluation.verdict import SIMILARITIES, UNADJUSTED, Comparison, Novelty, Standing, Verdict
from core.evaluation.walk import choose_block_length, is_walk
from core.evaluation.yardstick import Origins, Partners, Yardstick, measure_yardstick, pair_originals

FREE = (Group.ORIGINAL, Group.FREE)  # The checkpoints themselves need no further gradient either.


def find_origins(checkpoints: CheckpointSet) -> Origins | None:
    """Return the trainings and steps of the originals and of the audit's held-out checkpoints, if they are known."""
    if checkpoints.origin_K2 is None:
        return None
    held_out_H2 = checkpoints.audit_origin_H2
    return Origins(checkpoints.origin_K2.numpy(), None if held_out_H2 is None else held_out_H2.numpy())


def make_bootstrap(tables: Mapping[str, ScoreTable], origins: Origins | None = None) -> Bootstrap:
    """Return a bootstrap over these tables that resamples consecutive steps of one training in blocks.

    Originals are compared with each other only at a distance in time (`core.evaluation.yardstick.pair_originals`).

    Args:
        tables: Score tables by source. The steps of each training are consecutive rows.
        origins: Trainings and steps of the originals. If they are unknown (None), the originals are taken as steps of
            one training if they are autocorrelated in their given order.
    """
    vectors_KD = tables[ORIGINAL].vectors_MD
    walks = not are_independent(tables, origins)
    sources = [source for source in (ORIGINAL, CONTINUED, HELD_OUT) if source in tables and walks]
    return Bootstrap(
        tables,
        block_lengths={source: choose_model_blocks(tables[source]) for source in sources},
        partners=pair_originals(vectors_KD, origins),
    )


def choose_model_blocks(table: ScoreTable) -> int:
    """Return the number of consecutive steps that are resampled together, judged by their accuracies and errors."""
    scores = table.scores["test"]
    lengths = [choose_block_length(scores.accuracy_M[:, None])]
    if scores.wrong_MN is not None:
        lengths.append(choose_block_length(scores.wrong_MN.astype(np.float32)))
    return max(lengths)


def audit(
    tables: Mapping[str, ScoreTable],
    bootstrap: Bootstrap | None = None,
    origins: Origins | None = None,
    costs: Mapping[str, float | None] | None = None,
    symmetry: PermutationSymmetry | None = None,
) -> Verdict:
    """Compare `p_diff` with each other source, and decide whether it beats those that need no further training.

    There are two axes: the mean of the task's primary metric (accuracy for classifiers), and the mean maximum IoU with
    the originals, where lower is newer if the accuracy is not inferior and the relative κ is measurably lower, too. The
    reference is the free source (`FREE`) that is best on validation, so that test images do not choose it. The soup of
    the originals cannot be the reference, because validation images made it and its validation accuracy is too high.
    Like every free source, it must be measurably worse than p_diff for a "Yes".

    The accuracy against the reference is the headline, and has a 95% interval. All other comparisons are one family.
    Their false discoveries are controlled at 5%, and their intervals agree with the decisions. All decisions are rules
    of `core.evaluation.decisions`.

    For `original`, the maximum IoU of each original is taken over the originals that are at least a lag away from it
    (`core.evaluation.yardstick.pair_originals`). The IoU axis then shows whether a generated model is more similar to
    its nearest original than checkpoints of different times of a training are to each other.

    Args:
        tables: Score tables by source.
        bootstrap: Bootstrap over these tables, given to share its draws with the summary; None makes a new one.
        origins: Trainings and steps of the originals and of the held-out checkpoints, if they are known.
        costs: Gradient evaluations per model by source, where they are known.
        symmetry: Groups of hidden units that are matched before networks are compared by their weights; None for
            checkpoints of one training, whose units keep their places.
    """
    bootstrap = bootstrap or make_bootstrap(tables, origins)
    groups = {source: find_group(source, table.kind) for source, table in tables.items()}
    reference, chosen_on = choose_reference([tables[source] for source, group in groups.items() if group in FREE])
    comparer = Comparer(tables, bootstrap, reference)
    baselines = [reference] + [
        source
        for wanted in (FREE, (Group.TRAINED,), (Group.GENERATED,))
        for source, table in tables.items()
        if groups[source] in wanted and source not in (reference, GENERATED) and not is_own_soup(table)
    ]
    partners = bootstrap.partners or pair_originals(tables[ORIGINAL].vectors_MD, origins)
    yardstick, closeness = measure_copying(tables, origins, partners, symmetry)
    copiers = {source for source, near in closeness.items() if are_copies(near)}
    comparisons = comparer.compare_with(baselines, copiers)
    free = [row for row in comparisons if groups[row.baseline.source] in FREE]
    rival, contender = find_rival(free, reference), find_contender(free)
    novelty = decide_novelty(free[0], rival, closeness.get(GENERATED), contender)
    kept = None
    if RECONSTRUCTED in tables:
        kept = variance_kept(tables[RECONSTRUCTED].vectors_MD, tables[ORIGINAL].vectors_MD)
    return Verdict(
        p_diff=comparer.generated,
        comparisons=comparisons,
        reference=reference,
        answer=decide_answer(free),
        novelty=novelty,
        chosen_on=chosen_on,
        rival=contender if novelty is Novelty.CONTESTED else rival,
        groups=groups,
        costs={source: cost for source, cost in (costs or {}).items() if cost is not None},
        yardstick=yardstick,
        closeness=closeness,
        variance_kept=kept,
        interval_level=comparer.level,
        draws=bootstrap.draws,
        block_lengths=bootstrap.block_lengths,
        metric=comparer.metric,
    )


def is_own_soup(table: ScoreTable) -> bool:
    """Return whether a source is the soup of generated models, which is no baseline."""
    return table.kind is Kind.SOUP and find_group(table.source, table.kind) is Group.GENERATED


def choose_reference(free: Sequence[ScoreTable]) -> tuple[str, str]:
    """Return the best free source on validation, or on test if one of them has no validation scores, and the split."""
    candidates = [table for table in free if table.kind is not Kind.SOUP]
    split = "val" if all("val" in table.scores for table in candidates) else "test"
    return max(candidates, key=lambda table: float(table.scores[split].quality_M.mean())).source, split


def are_independent(tables: Mapping[str, ScoreTable], origins: Origins | None) -> bool:
    """Return whether each original comes from a training of its own, as far as it is known or can be seen."""
    return not (is_walk(tables[ORIGINAL].vectors_MD) if origins is None else origins.has_walks)


def measure_copying(
    tables: Mapping[str, ScoreTable],
    origins: Origins | None,
    partners: Partners,
    symmetry: PermutationSymmetry | None = None,
) -> tuple[Yardstick | None, dict[str, Closeness]]:
    """Return what honest new models show, and the closeness of each source to the originals by this yardstick.

    Without a yardstick (for fewer than 3 originals) nothing is measured. A deep ensemble is compared in its errors
    alone (`Standing`), because its subsets belong to other networks and their distances mean nothing.

    Networks of independent trainings number their hidden units differently, although the order changes no output. With
    a `symmetry`, all vectors are therefore put into a common order, and matched again to their nearest originals.

    Models with weights that are not finite are left out and counted, and so is a source that has no other models.
    """
    sizes = {source: len(table.vectors_MD) for source, table in tables.items()}
    tables = {source: select_finite(table) for source, table in tables.items() if source != DEEP_ENSEMBLE}
    tables = {source: table for source, table in tables.items() if len(table.vectors_MD)}
    if symmetry is not None:
        center_D = find_center(symmetry, tables[ORIGINAL].vectors_MD)
        tables = {
            source: replace(table, vectors_MD=align_all(symmetry, table.vectors_MD, center_D))
            for source, table in tables.items()
        }
    original = tables[ORIGINAL]
    held_out = tables.get(CONTINUED) or tables.get(HELD_OUT)
    if held_out is not None and len(held_out.vectors_MD) < sizes[held_out.source]:
        held_out = None  # Its rows are no longer those of the origins, and a training that broke down is not honest.
    yardstick = measure_yardstick(original, held_out, origins, lag=partners.lag, symmetry=symmetry)
    if yardstick is None:
        return None, {}
    return yardstick, {
        source: replace(
            measure_closeness(
                table,
                original,
                yardstick,
                apart_MK=partners.apart_KK if source == ORIGINAL else None,
                symmetry=symmetry,
            ),
            left_out=sizes[source] - len(table.vectors_MD),
        )
        for source, table in tables.items()
    }


class Comparer:
    """Comparisons of p_diff with other sources: the headline, and one family of all other comparisons.

    Attributes:
        level: Level of the intervals of the family, known after `compare_with`.
        generated: Position of p_diff.
    """

    def __init__(self, tables: Mapping[str, ScoreTable], bootstrap: Bootstrap, reference: str):
        self.tables, self.bootstrap, self.reference = tables, bootstrap, reference
        self.metric = tables[GENERATED].scores["test"].metric
        self.level = UNADJUSTED
        self.generated = self.locate(GENERATED)

    def locate(self, source: str) -> Standing:
        """Return the position of a source on both axes, and the similarity of its errors to those of the originals."""
        accuracy_M = self.tables[source].scores["test"].accuracy_M
        measured = self.bootstrap.measure_similarity(source)
        similarities = {name: measured.get(name) for name in SIMILARITIES}
        return Standing(source, len(accuracy_M), float(accuracy_M.mean()), **similarities)

    def measure_accuracy(self, baseline: str) -> Measured:
        """Return the mean accuracy of p_diff minus that of a baseline."""
        ours, theirs = (self.tables[source].scores["test"] for source in (GENERATED, baseline))
        draws_R = None
        if self.bootstrap.varies(GENERATED, baseline):
            draws_R = self.bootstrap.draw_accuracy(GENERATED) - self.bootstrap.draw_accuracy(baseline)
        value = float(ours.accuracy_M.mean() - theirs.accuracy_M.mean())
        return Measured(value, draws_R, self.metric, find_least_p_of_accuracy(ours, theirs))

    def measure_largest(self, similarity: Similarity, baseline: str) -> Measured:
        """Return the mean largest similarity of p_diff to an original minus that of a baseline."""
        ours, theirs = (self.bootstrap.measure_margins(similarity)[source] for source in (GENERATED, baseline))
        ours_R, theirs_R = (self.bootstrap.draw_similarity(source, similarity) for source in (GENERATED, baseline))
        value = float(ours.models_M.mean() - theirs.models_M.mean())
        return Measured(value, ours_R - theirs_R, similarity.metric, find_least_p_of_similarity(ours, theirs))

    def compare_with(self, baselines: Sequence[str], copiers: Container[str] = ()) -> tuple[Comparison, ...]:
        """Compare p_diff with each baseline on both axes, and decide all comparisons but the headline as one family.

        The sources among the `copiers` never count as newer.
        """
        accuracy = {source: self.measure_accuracy(source) for source in baselines}
        similar = [source for source in baselines if self.bootstrap.has_similarity(source)]
        iou, kappa = (
            {source: self.measure_largest(similarity, source) for source in similar}
            for similarity in (IOU, RELATIVE_KAPPA)
        )
        others = [each for source, each in accuracy.items() if source != self.reference]
        family = [*others, *iou.values(), *kappa.values()]
        p_values = [each.p for each in family if each.p is not None]
        if p_values:
            self.level = control_false_discoveries(np.array(p_values))[1]
        rows = []
        for source in baselines:
            level = UNADJUSTED if source == self.reference else self.level
            difference = decide_difference(accuracy[source], level)
            overlap, consistency = (
                decide_difference(measured[source], self.level) if source in measured else None
                for measured in (iou, kappa)
            )
            not_inferior = is_not_inferior(difference, self.metric)
            row = Comparison(
                self.locate(source), difference, overlap, not_inferior=not_inferior, kappa_relative=consistency
            )
            rows.append(replace(row, doubt=find_doubt(row, self.metric, copiers)))
        return tuple(rows)
