"""The contract of a task, passed by each case of `cases.py`: the loss, the scores, and their way to reports.

M models · N items · R draws of the items
"""

import json
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from core.evaluation.audit import audit
from core.evaluation.intervals import Bootstrap
from core.evaluation.resampling import draw_counts
from core.evaluation.scores import ACCURACY, Metric, Scores, ScoreTable
from core.evaluation.selection import measure_selections
from core.evaluation.summary import summarize_tables
from core.evaluation.verdict import Decision, Verdict
from core.publishing.model_card import describe_results
from core.report.metric_words import MetricWords
from core.report.sentences import word_verdict
from core.report.source_table import build_source_table
from core.report.tables import build_comparison_table
from core.runtime.seeding import derive_seed
from tasks.user_code import call_user_task
from tests.tasks.objectives.cases import CASES, Case
from tests.tasks.objectives.spread import assert_same_spread
from tests.test_documentation import OWN_TASK

NUM_MODELS, DRAWS = 4, 40
PER_MODEL = ("accuracy_M", "loss_M", "wrong_MN", "ece_M", "loss_MN", "influence_MN")


@cache
def make(name):
    """Return a case and the scores of its models, which the tests do not change."""
    case = CASES[name]()
    return case, case.score(case.draw_models(NUM_MODELS))


@pytest.fixture(params=CASES)
def case(request):
    return make(request.param)[0]


@pytest.fixture(params=CASES)
def scored(request):
    return make(request.param)


def assert_same(found: Scores, expected: Scores, models=slice(None)):
    """Check that the scores are those of some models of others; votes belong to all models together."""
    for name in PER_MODEL:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            tolerance = {"rtol": 2e-3, "atol": 2e-3} if name == "loss_MN" else {"rtol": 1e-4, "atol": 1e-5}
            np.testing.assert_allclose(ours, theirs[models], err_msg=name, **tolerance)
    assert found.metric == expected.metric
    np.testing.assert_array_equal(found.groups_N, expected.groups_N)


def test_the_loss_is_a_finite_scalar_with_gradients_to_all_parameters(case):
    case.model.zero_grad()
    loss = case.data.objective.compute_loss(case.model.train(), *case.make_batch(range(8)))
    loss.backward()
    assert loss.shape == () and torch.isfinite(loss)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in case.model.parameters())


def test_scores_have_a_value_of_the_metric_and_a_finite_loss_for_each_model(scored):
    case, scores = scored
    assert scores.metric == case.data.objective.metric
    assert scores.accuracy_M.shape == scores.loss_M.shape == (NUM_MODELS,)
    assert np.isfinite(scores.accuracy_M).all() and np.isfinite(scores.loss_M).all()
    assert len(np.unique(scores.accuracy_M)) > 1, "the models of a case differ, or nothing below would be tested"
    if scores.metric.in_percent:
        assert scores.accuracy_M.min() > 0.1 and scores.accuracy_M.max() < 0.97


def test_scores_of_several_models_are_those_of_one_at_a_time(scored):
    case, scores = scored
    vectors_MD = case.draw_models(NUM_MODELS)
    for model in range(NUM_MODELS):
        assert_same(case.score(vectors_MD[model : model + 1]), scores, slice(model, model + 1))


def count(case, predictions, targets):
    """Return the scores from the predictions of every model for one batch, and its targets."""
    counter = case.data.objective.count_scores(len(predictions), torch.device("cpu"))
    counter.add(((slice(row, row + 1), given) for row, given in enumerate(predictions)), targets)
    return counter.finish()


def test_scores_are_those_of_direct_calls(scored):
    case, scores = scored
    inputs, targets = case.make_batch(range(len(case.data.test)))
    predictions = [case.predict(vector_D, inputs) for vector_D in case.draw_models(NUM_MODELS)]
    assert_same(count(case, predictions, targets), scores)


def test_scores_of_the_users_own_objective_are_those_of_direct_calls(tmp_path, monkeypatch):
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        model, data = call_user_task("my_task:task")
    finally:
        sys.modules.pop("my_task")
    case = Case(model, data, spread=0.2)
    test_scores_are_those_of_direct_calls((case, case.score(case.draw_models(NUM_MODELS))))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_of_another_size_change_nothing(scored, batch_size):
    case, scores = scored
    assert_same(case.score(case.draw_models(NUM_MODELS), batch_size), scores)


def test_permuted_models_have_permuted_scores(scored):
    case, scores = scored
    order = [2, 0, 3, 1]
    assert_same(case.score(case.draw_models(NUM_MODELS)[order]), scores, order)


def test_a_model_of_nan_spoils_no_other_model_and_is_never_chosen(scored):
    case, scores = scored
    vectors_MD, others = case.draw_models(NUM_MODELS), [0, 2, 3]
    vectors_MD[1] = torch.nan
    broken = case.score(vectors_MD)
    kept = {name: None if (given := getattr(broken, name)) is None else given[others] for name in PER_MODEL}
    assert_same(replace(broken, **kept), scores, others)
    assert broken.rank()[-1] == 1 and broken.pick_best() == scores.rank()[scores.rank() != 1][0]
    assert not np.isfinite(broken.accuracy_M[1]) or broken.quality_M[1] < broken.quality_M[others].min()


def test_a_table_on_disk_holds_everything(scored, tmp_path):
    case, scores = scored
    table = ScoreTable("p_diff", case.draw_models(NUM_MODELS).numpy(), {"test": scores}, "identity", 1.5)
    table.save(tmp_path / "p_diff.npz")
    loaded = ScoreTable.load(tmp_path / "p_diff.npz").scores["test"]
    votes, found_votes = (vars(each.votes) if each.votes else {} for each in (scores, loaded))
    assert votes.keys() == found_votes.keys()
    for name, given in {**vars(scores), **votes, "votes": None}.items():
        found = {**vars(loaded), **found_votes, "votes": None}[name]
        if isinstance(given, np.ndarray):
            assert found.dtype == given.dtype, name
            np.testing.assert_array_equal(found, given, err_msg=name)
        else:
            assert found == given, name


@pytest.fixture
def influenced(scored):
    """Return a case and its scores, if it is known how much each item adds to the metric."""
    if not scored[1].has_influence:
        pytest.skip("the influence of the items on the metric is unknown")
    return scored


def test_the_mean_influence_of_the_items_is_the_metric(influenced):
    _, scores = influenced
    influence_MN = scores.read_influence(np.arange(scores.num_items))
    np.testing.assert_allclose(influence_MN.mean(axis=1), scores.accuracy_M, rtol=1e-5)


def test_resampled_influences_spread_as_metrics_that_are_computed_anew(influenced):
    """The same samples of the items are used for both, for single models and for the difference of two."""
    case, scores = influenced
    rows, num_items = (0, NUM_MODELS - 1), len(case.data.test)
    tables = make_tables(scores, original=[rows[0]], p_diff=[rows[1]])
    bootstrap = Bootstrap(tables, draws=DRAWS)
    random = np.random.default_rng(derive_seed(0, "bootstrap images"))
    counts_RN = draw_counts(num_items, DRAWS, random).astype(int)
    vectors_2D, exact_R2 = case.draw_models(NUM_MODELS)[list(rows)], []
    for counts_N in counts_RN:
        inputs, targets = case.make_batch(np.repeat(np.arange(num_items), counts_N))
        exact_R2.append(count(case, [case.predict(vector_D, inputs) for vector_D in vectors_2D], targets).accuracy_M)
    linear_R2 = np.stack([bootstrap.draw_accuracy(source) for source in ("original", "p_diff")], axis=1)
    assert_same_spread(linear_R2, np.array(exact_R2))


def make_tables(scores, **rows):
    """Return a score table by source of these models, with the same scores on validation and test."""
    tables = {}
    for source, models in rows.items():
        kept = {name: None if (given := getattr(scores, name)) is None else given[models] for name in PER_MODEL}
        some = replace(scores, **kept, votes=None)
        vectors_MD = np.random.default_rng(0).normal(size=(NUM_MODELS, 6)).astype(np.float32)[models]
        tables[source] = ScoreTable(source, vectors_MD, {"val": some, "test": some}, "identity", 0.0)
    return tables


@pytest.fixture
def report(scored):
    """Return scores, the tables in which p_diff is the best model, and metrics.json as a run writes it."""
    _, scores = scored
    best, *others = scores.rank().tolist()
    tables = make_tables(scores, original=others, ensemble=[others[0]], p_diff=[best, others[0]])
    bootstrap = Bootstrap(tables, draws=500)
    verdict = audit(tables, bootstrap)
    content = {**summarize_tables(tables, bootstrap), "worth": [], "verdict": word_verdict(verdict)}
    return scores, tables, json.loads(json.dumps(content))


def test_the_best_value_is_the_best_in_the_direction_of_the_metric(report):
    scores, tables, metrics = report
    best, worst = (max, min) if scores.metric.higher_is_better else (min, max)
    for row in metrics["table"]:
        values = tables[row["source"]].scores["test"].accuracy_M
        assert (row["accuracy_best"], row["accuracy_worst"]) == (best(values), worst(values))
    values = scores.accuracy_M.tolist()
    assert metrics["paper_protocol"]["p_diff"] == best(values)
    chosen = {row["chosen_by"]: row["test_accuracy"] for row in measure_selections(tables) if row["source"] == "p_diff"}
    assert chosen["val_accuracy"] == best(values)
    verdict = Verdict.from_json(metrics["verdict"])
    assert all(scores.metric.sign * row.accuracy.value > 0 for row in verdict.comparisons)
    assert all(row.accuracy.decision is not Decision.WORSE for row in verdict.comparisons)


def test_name_unit_and_direction_of_the_metric_reach_tables_verdict_and_card(report):
    scores, _, metrics = report
    metric = scores.metric
    assert Metric.read(metrics) == Metric.read(metrics["verdict"]) == metric
    words, verdict = MetricWords(metric), Verdict.from_json(metrics["verdict"])
    sources, compared = build_source_table(metrics), build_comparison_table(verdict)
    explained = next(column.explanation for column in sources.columns if column.label.startswith("mean"))
    assert metric.name in explained and words.direction in explained
    assert ("%" in sources.columns[3].label) == metric.in_percent
    difference = next(column for column in compared.columns if column.label.startswith(metric.name))
    assert words.unit in difference.explanation and words.good_side in difference.explanation
    headline, card = metrics["verdict"]["sentences"][0], describe_results({**metrics, "scored": None}, models=())
    assert words.better in headline and words.unit in headline
    assert f"mean {metric.name}" in card and f"shows {metric.name} on test" in card
    assert words.format(metrics["table"][0]["accuracy_mean"]) in card
    if metric != ACCURACY:
        assert "accura" not in " ".join([sources.explained_markdown(), compared.explained_markdown(), headline, card])
