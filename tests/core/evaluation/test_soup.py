"""Greedy soups of models that are single numbers, so that the best average is known."""

import numpy as np
import pytest
import torch

from core.evaluation.kinds import Kind
from core.evaluation.scores import Metric, Scores, ScoreTable
from core.evaluation.soup import greedy_soup, list_soups

VALUES = [0.2, 0.4, 0.9, 0.7]  # A value is better the nearer it is to 0.5.


def score_fn(vectors_MD, temperature_P=None):
    accuracy_M = 1 - (vectors_MD[:, 0].double() - 0.5).abs().numpy()
    return Scores(accuracy_M, 1 - accuracy_M, None)


@pytest.mark.parametrize(
    "num_candidates, expected",
    [
        (1, 0.4),  # Only the best model is tried.
        (2, (0.4 + 0.7) / 2),  # 0.55 is nearer to 0.5 than 0.4 is.
        (4, (0.4 + 0.7) / 2),  # Neither 0.2 nor 0.9 improves the average.
        (99, (0.4 + 0.7) / 2),
    ],
)
def test_models_join_best_first_if_the_average_does_not_get_worse(num_candidates, expected):
    vectors_MD = torch.tensor(VALUES)[:, None]
    before = vectors_MD.clone()
    soup = greedy_soup(vectors_MD, score_fn(vectors_MD), score_fn, num_candidates=num_candidates)
    assert soup.shape == (1, 1) and soup.item() == pytest.approx(expected)
    assert torch.equal(vectors_MD, before)


def test_a_model_that_changes_nothing_joins():
    vectors_MD = torch.eye(3)
    constant = Scores(np.full(3, 0.5), np.arange(3.0), None)
    soup = greedy_soup(
        vectors_MD,
        constant,
        lambda vectors, temperature_P: Scores(np.full(len(vectors), 0.5), np.zeros(len(vectors)), None),
        num_candidates=3,
    )
    torch.testing.assert_close(soup, torch.full((1, 3), 1 / 3))


def test_the_soup_of_one_model_is_a_copy_of_it():
    vectors_MD = torch.tensor([[0.4]])
    soup = greedy_soup(vectors_MD, score_fn(vectors_MD), score_fn, num_candidates=50)
    soup.fill_(-1)
    assert vectors_MD.item() == pytest.approx(0.4)


def test_a_model_joins_if_the_average_does_not_get_larger_when_lower_is_better():
    distance = Metric("distance", "from 0.5", higher_is_better=False)

    def distances(vectors_MD, temperature_P=None):
        value_M = (vectors_MD[:, 0].double() - 0.5).abs().numpy()
        return Scores(value_M, value_M, None, metric=distance)

    vectors_MD = torch.tensor(VALUES)[:, None]
    soup = greedy_soup(vectors_MD, distances(vectors_MD), distances, num_candidates=4)
    assert soup.item() == pytest.approx((0.4 + 0.7) / 2)


def test_soups_use_tables_that_are_added_before_they_are_made():
    tables = {}
    original, generated = list_soups(tables, score_fn, 1)
    assert (original.name, original.kind, original.needs_generator) == ("soup_original", Kind.SOUP, False)
    assert (generated.name, generated.kind, generated.needs_generator) == ("soup_p_diff", Kind.SOUP, True)
    assert original.splits == generated.splits == ("val", "test")
    vectors_MD = torch.tensor(VALUES)[:, None]
    tables["p_diff"] = ScoreTable("p_diff", vectors_MD.numpy(), {"val": score_fn(vectors_MD)}, "id", 0.0)
    assert generated.make().item() == pytest.approx(0.4)


def test_no_temperatures_are_fitted_while_a_soup_is_searched():
    vectors_MD, given = torch.tensor(VALUES)[:, None], []

    def record(vectors_MD, temperature_P=None):
        given.append(temperature_P)
        return score_fn(vectors_MD)

    greedy_soup(vectors_MD, score_fn(vectors_MD), record, num_candidates=4)
    assert [temperature_P.tolist() for temperature_P in given] == [[1.0]] * 3
