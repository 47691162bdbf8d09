"""The fine-tuned sources, which continue the training of checkpoints."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.optimizer_state import copy_optimizer_state
from core.checkpoints.subset import find_columns, flatten, resolve_subset, unflatten
from core.checkpoints.vector_rows import VectorRows
from core.evaluation.kinds import Kind
from core.evaluation.sources import SourceOptions, choose_checkpoints
from core.runtime.seeding import derive_seed
from tasks.collecting.collection import Factory, Optimization
from tasks.data.loaders import make_training_loader
from tasks.data.splits import gather_labeled_images
from tasks.networks.build import build_classifier
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.task import Task
from tasks.training.finetuning import MOMENT_STEPS, RESTART, accumulate_moments, finetune, list_finetuned


def make_task(subset="last_norms"):
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(24, 3, 16, 16), torch.randint(4, (24,)))
    model = build_classifier("test_resnet", num_classes=4, channels=3, image_size=16).eval()
    data = gather_labeled_images(images, images, images, num_classes=4, channels=3, image_size=16)
    return Task(data, model, resolve_subset(model, subset), scoring=ScoringSpec())


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.03)


@pytest.mark.parametrize("subset", ["last_norms", ["layer4.0.downsample.1.weight"]])
def test_finetuning_equals_plain_training_of_the_whole_network(subset):
    task, num_steps = make_task(subset), 2
    vectors_MD = torch.stack([flatten(task.model, task.subset) + shift for shift in (0.0, 0.1)])
    given = vectors_MD.clone()
    state = {
        name: {"step": torch.tensor(9.0), "exp_avg": torch.randn(shape), "exp_avg_sq": torch.rand(shape)}
        for name, shape in zip(task.subset.names, task.subset.shapes, strict=True)
    }
    stored = copy.deepcopy(state)
    options = {"make_optimizer": adamw, "batch_size": 8, "num_steps": num_steps, "seed": 5}
    tuned_MD = finetune(vectors_MD, task, states=[state, state], share=0.5, **options)
    assert torch.equal(vectors_MD, given), "the given vectors were changed"
    for name, values in stored.items():
        assert all(torch.equal(state[name][key], value) for key, value in values.items()), "the state was changed"

    loader = make_training_loader(task.data.train, 8, derive_seed(5, "finetuned"))
    epochs = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        epochs += [*loader]
    assert num_steps < len(loader) < 2 * num_steps and not torch.equal(epochs[0][0], epochs[len(loader)][0]), (
        "the second epoch repeats the first"
    )
    for index, (start_D, tuned_D) in enumerate(zip(given, tuned_MD, strict=True)):
        batches = epochs[index * num_steps : (index + 1) * num_steps]
        state = dict(task.model.state_dict())
        parts = start_D.split(task.subset.sizes)
        parameters = {
            name: part.view(shape).clone()
            for name, part, shape in zip(task.subset.names, parts, task.subset.shapes, strict=True)
        }
        task.model.load_state_dict({**state, **parameters})
        chosen = [dict(task.model.named_parameters())[name] for name in task.subset.names]
        optimizer = adamw(chosen)
        for name, parameter in zip(task.subset.names, chosen, strict=True):
            optimizer.state[parameter] = copy.deepcopy(stored[name])
        for step, (images, labels) in enumerate(batches):
            optimizer.param_groups[0]["lr"] = 0.03 * 0.5 * 0.5 * (1 + math.cos(math.pi * step / num_steps))
            optimizer.zero_grad()
            F.cross_entropy(task.model(images), labels).backward()
            optimizer.step()
        torch.testing.assert_close(tuned_D, flatten(task.model, task.subset), rtol=1e-4, atol=1e-5)


def test_a_batch_size_above_the_number_of_training_images_uses_them_all():
    task = make_task()
    given_MD = flatten(task.model, task.subset)[None]
    assert not torch.equal(
        finetune(given_MD, task, make_optimizer=adamw, batch_size=100, num_steps=2, seed=5, states=[{}]), given_MD
    )


@pytest.mark.parametrize("subset", ["all", ["layer4.0.bn1.*", "fc.*"]])
def test_running_statistics_of_the_subset_follow_the_batches_as_in_training(subset):
    task, num_steps = make_task(subset), 3
    vector_D, sgd = flatten(task.model, task.subset), partial(torch.optim.SGD, lr=0.1)
    [tuned_D] = finetune(
        vector_D[None], task, make_optimizer=sgd, batch_size=24, num_steps=num_steps, seed=5, states=[{}]
    )
    if subset == "all":
        task.model.train()
    task.model.layer4[0].bn1.train()  # the other layers of a partial subset stay in eval mode
    optimizer = sgd([parameter for name, parameter in task.model.named_parameters() if name in task.subset.names])
    images, labels = task.data.train.tensors
    for step in range(num_steps):  # each batch holds all images, so their order does not matter
        optimizer.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        optimizer.zero_grad()
        F.cross_entropy(task.model(images), labels).backward()
        optimizer.step()
    torch.testing.assert_close(tuned_D, flatten(task.model, task.subset), rtol=1e-4, atol=1e-5)
    statistics_D = find_columns([name for name in task.subset.names if "running_" in name], task.subset)
    assert (tuned_D - vector_D)[statistics_D].abs().max() > 1e-3


def test_moments_are_accumulated_without_moving_the_model():
    task = make_task("all")
    vector_D = flatten(task.model, task.subset)
    given_D = vector_D.clone()
    [state] = accumulate_moments(vector_D[None], task, make_optimizer=adamw, batch_size=24, seed=5)
    assert torch.equal(vector_D, given_D)
    task.model.train()  # as the layers that own running statistics of the subset
    parameters = dict(task.model.named_parameters())
    assert state.keys() == parameters.keys()
    images, labels = task.data.train.tensors
    F.cross_entropy(task.model(images), labels).backward()  # the batch holds all images, so all gradients are equal
    for name, values in state.items():
        assert values["step"] == MOMENT_STEPS
        unbiased = values["exp_avg"] / (1 - 0.9**MOMENT_STEPS)
        torch.testing.assert_close(unbiased, parameters[name].grad, rtol=1e-2, atol=1e-5)


FACTORY = Factory({"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01})
OPTIONS = SourceOptions(num_finetuned=10, finetune_steps=(1, 5))


@pytest.fixture(scope="module")
def collected():
    """Return a small network on real digits with checkpoints of its first layer, trained further, and their task."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    train, test = TensorDataset(images[:600], labels[:600]), TensorDataset(images[600:], labels[600:])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def train_on(optimizer, rows):
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()

    whole, vectors = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(60):
        train_on(whole, slice(600))
    subset, optimizer = resolve_subset(model, ["1.*"]), FACTORY([*model[1].parameters()])
    for rows in torch.randint(600, (150, 32)):
        train_on(optimizer, rows)
        vectors.append(flatten(model, subset))
    checkpoints = CheckpointSet(
        rows=VectorRows([torch.stack(vectors[-20:])]),
        accuracy_K=torch.ones(20, dtype=torch.float64),
        subset=subset,
        network=model.state_dict(),
        settings={},
        origin_K2=torch.tensor([(0, step) for step in range(131, 151)]),
        optimizer_state=copy_optimizer_state(optimizer, model.named_parameters()),
    )
    return Task(
        gather_labeled_images(train, test, test, num_classes=10, channels=1, image_size=8),
        model,
        subset,
        scoring=ScoringSpec(),
    ), checkpoints


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "accumulated"])
def test_a_few_steps_do_not_throw_a_checkpoint_back_as_a_fresh_optimizer_does(collected, stored):
    task, checkpoints = collected
    given = checkpoints if stored else replace(checkpoints, optimizer_state=None)
    one, few = (source.make() for source in list_finetuned(task, given, Optimization(FACTORY, 32), OPTIONS, seed=3))
    starts_MD = choose_checkpoints(checkpoints.vectors_KD, 10, seed=3)
    options = {"make_optimizer": FACTORY, "batch_size": 32, "seed": 3, "states": [{}] * 10}
    fresh_one, fresh = (finetune(starts_MD, task, num_steps=num_steps, **options) for num_steps in (1, 5))

    vectors_KD = checkpoints.vectors_KD
    collecting = (vectors_KD[1:] - vectors_KD[:-1]).norm(dim=1).mean()
    assert 0.5 < (one - starts_MD).norm(dim=1).mean() / collecting < 2
    assert (fresh_one - starts_MD).norm(dim=1).mean() / collecting > 4

    score = Scorer(task.model, task.subset, task.data.test, objective=task.data.objective)
    originals, tuned, thrown_back = (score(vectors).loss_M.mean() for vectors in (starts_MD, few, fresh))
    assert tuned < originals < thrown_back


def test_each_number_of_steps_is_a_source_with_its_costs(collected):
    task, checkpoints = collected
    assert not list_finetuned(task, checkpoints, Optimization(FACTORY, 32), SourceOptions(num_finetuned=0), seed=3)
    without_state = replace(checkpoints, optimizer_state=None)
    imported = replace(without_state, origin_K2=None)  # may be independent networks, whose coordinates differ
    for given, shared in ((checkpoints, 0), (without_state, MOMENT_STEPS / 10), (imported, MOMENT_STEPS)):
        sources = list_finetuned(task, given, Optimization(FACTORY, 32), OPTIONS, seed=3)
        assert [source.name for source in sources] == ["finetuned_1", "finetuned_5"]
        for source, steps in zip(sources, (1, 5), strict=True):
            assert (source.kind, source.splits, source.num_models) == (Kind.TRAINED, ("val", "test"), 10)
            assert source.gradient_evaluations == steps + shared and source.training_images == (steps + shared) * 32
            assert source.settings["optimizer"]["lr"] == 0.01


def test_independent_networks_use_their_own_moments_and_a_lower_rate():
    """Two networks that differ in the order of their hidden units alone must stay equal up to this order."""
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(40, 1, 3, 3), torch.randint(4, (40,)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 4))
    subset, order = resolve_subset(model, "all"), torch.tensor([3, 0, 5, 1, 2, 4])
    columns = unflatten(torch.arange(subset.num_params), subset)
    for name, axis in (("1.weight", 0), ("1.bias", 0), ("3.weight", 1)):
        columns[name] = columns[name].index_select(axis, order)
    permutation_D = torch.cat([columns[name].flatten() for name in subset.names])
    vector_D = flatten(model, subset)
    checkpoints = CheckpointSet(
        rows=VectorRows([torch.stack([vector_D, vector_D[permutation_D]])]),
        accuracy_K=torch.ones(2, dtype=torch.float64),
        subset=subset,
        network=model.state_dict(),
        settings={},
        origin_K2=torch.tensor([(0, 40), (1, 40)]),
    )
    task = Task(
        gather_labeled_images(images, images, images, num_classes=4, channels=1, image_size=3),
        model,
        subset,
        scoring=ScoringSpec(),
    )
    options = SourceOptions(num_finetuned=2, finetune_steps=3)
    [source] = list_finetuned(task, checkpoints, Optimization(FACTORY, 40), options, seed=3)  # a batch is all images
    assert source.gradient_evaluations == 3 + MOMENT_STEPS
    starts_MD, tuned_MD = choose_checkpoints(checkpoints.vectors_KD, 2, seed=3), source.make()
    first = int(torch.equal(starts_MD[1], vector_D))
    torch.testing.assert_close(tuned_MD[first][permutation_D], tuned_MD[1 - first])

    training = {"make_optimizer": FACTORY, "batch_size": 40, "seed": 3}
    states = accumulate_moments(starts_MD, task, **training)
    full_MD, lower_MD = (
        finetune(starts_MD, task, num_steps=3, states=states, share=share, **training) for share in (1, RESTART)
    )
    torch.testing.assert_close(tuned_MD, lower_MD)
    assert (lower_MD - starts_MD).norm() < 0.2 * (full_MD - starts_MD).norm()
