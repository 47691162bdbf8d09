"""Votes that are added up chunk by chunk equal their definitions over all items at once."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import nll_loss

from tasks.objectives.votes import TEMPERATURES_T, VoteCounter, list_counts

CPU = torch.device("cpu")
NUM_MODELS, NUM_ITEMS, NUM_CLASSES, CHUNK = 23, 150, 6, 32


@pytest.fixture
def predictions():
    """Return log-probabilities (M, N, C) of overconfident models, and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.randint(NUM_CLASSES, (NUM_ITEMS,), generator=generator)
    logits_MNC = 3 * torch.randn(NUM_MODELS, NUM_ITEMS, NUM_CLASSES, generator=generator)
    logits_MNC += 4 * torch.randn(NUM_ITEMS, NUM_CLASSES, generator=generator)
    logits_MNC[:, torch.arange(NUM_ITEMS), labels_N] += 5
    return logits_MNC.log_softmax(dim=2), labels_N


def count_votes(log_MNC, labels_N, temperature_P=None):
    counter = VoteCounter(len(log_MNC), CPU, temperature_P)
    for start in range(0, len(labels_N), CHUNK):
        counter.add(log_MNC[:, start : start + CHUNK], labels_N[start : start + CHUNK])
    return counter, counter.finish()


@pytest.mark.parametrize("num_models, counts", [
    (1, [1]),
    (2, [1, 2]),
    (3, [1, 2, 3]),
    (20, [1, 2, 5, 10, 20]),
    (23, [1, 2, 5, 10, 20, 23]),
    (1000, [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]),
])  # fmt: skip
def test_the_numbers_of_models_are_round_and_end_with_all_models(num_models, counts):
    assert list_counts(num_models) == counts


@pytest.mark.parametrize("temperature", [None, 2.5])
def test_votes_equal_their_definitions(predictions, temperature):
    log_MNC, labels_N = predictions
    given_P = None if temperature is None else np.full(6, temperature)
    counter, votes = count_votes(log_MNC, labels_N, given_P)
    assert sorted(counter.order_M.tolist()) == list(range(NUM_MODELS)) != counter.order_M.tolist()
    for row, count in enumerate(votes.counts_P):
        members = log_MNC[counter.order_M[:count]]
        mean_NC = (members.exp().mean(0).log() / (temperature or 1)).softmax(1)
        target_NC = torch.nn.functional.one_hot(labels_N, NUM_CLASSES)
        predicted = members.argmax(2)
        pairs = [(predicted[a] != predicted[b]).double() for a in range(count) for b in range(a)]
        expected = {
            "loss_PN": nll_loss(mean_NC.log(), labels_N, reduction="none"),
            "brier_PN": (mean_NC - target_NC).square().sum(1),
            "confidence_PN": mean_NC.max(1).values,
            "wrong_PN": mean_NC.argmax(1) != labels_N,
            "disagreement_PN": torch.stack(pairs).mean(0) if pairs else torch.full((NUM_ITEMS,), torch.nan),
        }
        for name, values in expected.items():
            found = getattr(votes, name)[row]
            np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5, err_msg=f"{name} of {count}")


def test_the_temperatures_are_those_of_the_least_loss(predictions):
    log_MNC, labels_N = predictions
    counter, votes = count_votes(log_MNC, labels_N)
    for count, fitted in zip(votes.counts_P, votes.fitted_P, strict=True):
        log_mean_NC = log_MNC[counter.order_M[:count]].exp().mean(0).log().double()

        def loss(log_temperature, log_mean_NC=log_mean_NC):
            return nll_loss((log_mean_NC / np.exp(log_temperature)).log_softmax(1), labels_N).item()

        best = minimize_scalar(loss, bounds=(np.log(0.2), np.log(50)), method="bounded")
        assert 1.5 < fitted < 10 and fitted == pytest.approx(np.exp(best.x), rel=0.01)
        assert loss(np.log(fitted)) == pytest.approx(best.fun, rel=1e-5)
    np.testing.assert_array_equal(votes.temperature_P, np.ones(6))


def test_without_errors_the_temperature_stays_within_the_grid():
    labels_N = torch.arange(NUM_ITEMS) % 2
    log_MNC = (5 * torch.eye(2)[labels_N]).log_softmax(1).expand(3, -1, -1)
    _, votes = count_votes(log_MNC, labels_N)
    np.testing.assert_allclose(votes.fitted_P, TEMPERATURES_T[0])
    assert not votes.wrong_PN.any() and (votes.loss_PN >= 0).all()


def test_a_probability_of_zero_gives_a_finite_loss():
    log_MNC = torch.tensor([0.0, -torch.inf]).expand(3, 4, 2)
    _, votes = count_votes(log_MNC, torch.ones(4, dtype=torch.long))
    assert np.isfinite(votes.loss_PN).all() and votes.loss_PN.min() > 80 and votes.fitted_P == pytest.approx(50)


def test_models_that_give_nan_do_not_vote(predictions):
    log_MNC, labels_N = predictions
    counter, sound = count_votes(log_MNC[:22], labels_N)
    broken_MNC = torch.cat([log_MNC[:22], torch.full((1, NUM_ITEMS, NUM_CLASSES), torch.nan)])
    counter, votes = count_votes(broken_MNC, labels_N)
    for name in ("loss_PN", "brier_PN", "confidence_PN", "wrong_PN", "disagreement_PN"):
        found, expected = getattr(votes, name)[-1], getattr(sound, name)[-1]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=name)
    broken_MNC = log_MNC.clone()
    broken_MNC[counter.order_M[0]] = torch.nan
    _, votes = count_votes(broken_MNC, labels_N)
    assert votes.wrong_PN[0].all() and np.isnan(votes.loss_PN[0]).all() and np.isfinite(votes.fitted_P).all()
    assert np.isnan(votes.disagreement_PN[:2]).all() and np.isfinite(votes.disagreement_PN[2:]).all()
    assert np.isfinite(votes.loss_PN[1:]).all()


def test_every_split_is_voted_on_by_the_same_models():
    assert torch.equal(VoteCounter(50, CPU).order_M, VoteCounter(50, CPU).order_M)


def find_tensors(value):
    """Yield every tensor that is reachable from an object."""
    if isinstance(value, torch.Tensor):
        yield value
    for part in value if isinstance(value, list) else getattr(value, "__dict__", {}).values():
        yield from find_tensors(part)


def test_memory_does_not_grow_with_the_classes_of_all_items():
    num_items, num_classes, counter = 640, 500, VoteCounter(4, CPU)
    for _ in range(num_items // CHUNK):
        labels_B = torch.randint(num_classes, (CHUNK,))
        counter.add(torch.randn(4, CHUNK, num_classes).log_softmax(dim=2), labels_B)
    storages = [tensor.untyped_storage() for tensor in find_tensors(counter)]
    assert len(storages) > 5 * num_items / CHUNK
    assert (
        sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) < 4 * num_items * num_classes / 10
    )  # one tenth of a single vote
