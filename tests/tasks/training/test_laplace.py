"""The Laplace posterior against a closed form, and what it does with networks that it cannot handle."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import flatten, resolve_subset, unflatten
from core.checkpoints.vector_rows import VectorRows
from core.evaluation.kinds import Kind
from core.evaluation.sources import SourceOptions, UnavailableSource
from tasks.data.splits import gather_labeled_images
from tasks.scoring.scorer import ScoringSpec
from tasks.task import Task
from tasks.training import laplace
from tasks.training.laplace import FACTORS, choose_num_images, draw_laplace, fit_posterior, list_laplace


def make_task(subset, num_images=40):
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(num_images, 1, 3, 3), torch.randint(4, (num_images,)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).eval()
    data = gather_labeled_images(images, images, images, num_classes=4, channels=1, image_size=3)
    return Task(data, model, resolve_subset(model, subset), scoring=ScoringSpec())


def vote_of(least_loss_at=None, center_D=None):
    """Return a scoring function whose votes have the least loss at a certain distance from the center."""

    def score(vectors_MD):
        distance = 0.0 if center_D is None else (vectors_MD - center_D).norm(dim=1).mean().item()
        loss = abs(np.log(distance) - np.log(least_loss_at)) if least_loss_at else 0.0
        return SimpleNamespace(votes=SimpleNamespace(loss_PN=np.full((2, 3), loss)))

    return score


def measure_curvature(task, vector_D):
    """Return the generalized Gauss-Newton matrix, the sum of Jᵀ (diag(p) − p pᵀ) J over all images, and its columns."""
    columns = unflatten(torch.arange(task.subset.num_params), task.subset)
    trained = torch.cat([columns[name].flatten() for name, _ in task.model.named_parameters() if name in columns])

    buffers = {name for name, _ in task.model.named_buffers()}

    def run(part_P, image):
        whole_D = vector_D.index_put((trained,), part_P)
        entries = {
            name: entry.detach() if name in buffers else entry
            for name, entry in unflatten(whole_D, task.subset).items()
        }
        return torch.func.functional_call(task.model, entries, image[None])[0]

    total = 0
    for image, _ in task.data.train:
        jacobian = torch.autograd.functional.jacobian(partial(run, image=image), vector_D[trained])
        p = run(vector_D[trained], image).softmax(0).detach()
        total = total + jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian
    return total, trained


@pytest.mark.parametrize("most_full", [4096, 10], ids=["full", "diagonal"])
@pytest.mark.parametrize("subset", [["2.weight", "2.bias"], "all"])
def test_samples_have_the_covariance_of_the_posterior_and_leave_running_statistics_alone(
    monkeypatch, subset, most_full
):
    monkeypatch.setattr(laplace, "MOST_FULL", most_full if subset == "all" else 4096 * (most_full > 10))
    task = make_task(subset)
    vector_D = flatten(task.model, task.subset) + 0.1
    curvature, trained = measure_curvature(task, vector_D)
    posterior = fit_posterior(vector_D, task, 40, seed=0)
    expected = curvature if most_full == 4096 else curvature.diag().diag()
    expected = (expected + float(posterior.prior_precision) * torch.eye(len(trained))).inverse()
    made = draw_laplace(vector_D, task, vote_of(), num_models=20_000, num_images=40, seed=0)  # all votes are equal
    scale = torch.outer(expected.diag(), expected.diag()).sqrt()
    np.testing.assert_allclose((np.cov(made[:, trained].T.numpy()) - expected.numpy()) / scale, 0, atol=0.05)
    fixed = torch.ones(len(vector_D), dtype=torch.bool)
    fixed[trained] = False
    assert (made[:, fixed] == vector_D[fixed]).all() and fixed.any() == (subset == "all")


def test_fewer_images_stand_for_all_training_images():
    task = make_task(["2.weight", "2.bias"])
    vector_D = flatten(task.model, task.subset)
    whole, half = (fit_posterior(vector_D, task, num_images, seed=0).eigen[0].sum() for num_images in (40, 20))
    assert half == pytest.approx(float(whole), rel=0.3)


def test_the_prior_is_chosen_by_the_vote_on_validation():
    task = make_task("all")
    vector_D = flatten(task.model, task.subset)
    draw = {"num_models": 50, "num_images": 40, "seed": 0}
    wide = (draw_laplace(vector_D, task, vote_of(), **draw) - vector_D).norm(dim=1).mean()
    wanted = wide / 10**1.5  # the prior precision times 1,000 divides a distance that the prior decides by √1,000
    narrow = (draw_laplace(vector_D, task, vote_of(wanted.item(), vector_D), **draw) - vector_D).norm(dim=1).mean()
    assert wanted / 2 < narrow < 2 * wanted and len(FACTORS) > 3


def test_a_network_that_cannot_be_handled_is_named_with_the_reason():
    class Counting(nn.Sequential):
        def forward(self, images):
            return super().forward(images) * (1 if images.sum().item() > 0 else 2)

    task = make_task("all")
    task = replace(task, model=Counting(*task.model))
    with pytest.raises(UnavailableSource, match=r"laplace-torch .*RuntimeError: vmap"):
        draw_laplace(flatten(task.model, task.subset), task, vote_of(), num_models=2, num_images=40, seed=0)
    with pytest.raises(UnavailableSource, match=str(task.subset.num_params)):
        draw_laplace(flatten(task.model, task.subset), task, vote_of(), num_models=2, num_images=0, seed=0)


def test_the_number_of_images_is_bounded_by_time_and_memory(monkeypatch):
    task = make_task("all", num_images=30)
    found = []
    for name, value in (("MOST_IMAGES", 30), ("MOST_IMAGES", 7), ("MOST_GRADIENTS", 20), ("MOST_NUMBERS", 900)):
        monkeypatch.setattr(laplace, name, value)
        found.append(choose_num_images(task))
    assert found == [30, 7, 5, 900 // (4 * task.subset.num_params)]


def test_the_source_counts_its_gradients():
    task = make_task("all")
    vectors_KD = flatten(task.model, task.subset) + torch.rand(3, task.subset.num_params)
    checkpoints = CheckpointSet(
        rows=VectorRows([vectors_KD]),
        accuracy_K=torch.ones(3, dtype=torch.float64),
        subset=task.subset,
        network=task.model.state_dict(),
        settings={},
    )
    options = SourceOptions(num_finetuned=6)
    assert not list_laplace(
        task, checkpoints, vote_of(), batch_size=8, options=replace(options, num_finetuned=0), seed=0
    )
    [source] = list_laplace(task, checkpoints, vote_of(), batch_size=8, options=options, seed=0)
    assert (source.name, source.kind, source.splits) == ("laplace", Kind.TRAINED, ("val", "test"))
    assert source.gradient_evaluations == pytest.approx(40 * 4 / 8 / 6)
    made = source.make()
    assert made.shape == (6, task.subset.num_params) and source.num_models == 6
    nearest = torch.cdist(made, vectors_KD).argmin(dim=1)
    assert (nearest == 2).float().mean() > 0.5, "the center is not the last checkpoint"
