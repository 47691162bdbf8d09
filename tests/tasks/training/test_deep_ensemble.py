"""The deep ensemble: whole networks of other seeds, trained as the classifier, scored whole, and kept for later."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from core.checkpoints.subset import find_columns, flatten, resolve_subset, unflatten
from core.evaluation.evaluate import score_source
from core.evaluation.kinds import DEEP_ENSEMBLE, Kind, infer_kind
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed
from core.runtime.stage_progress import StageProgress
from tasks.collecting.classifier import Classifier
from tasks.collecting.collection import PlannedNetwork
from tasks.networks.build import build_classifier
from tasks.scoring.scorer import ScoringSpec
from tasks.task import Task
from tasks.training.deep_ensemble import check_deep_ensemble, list_deep_ensemble
from tasks.training.train_networks import initialize_classifier, train_classifier
from tests.tasks.tiny import CHANNELS, CLASSES, task_config, task_spec

MACHINE = {"precision": "tf32", "devices": 1}


@pytest.fixture
def cfg():
    return task_config("task.model.name=test_resnet", "task.epochs=2", "task.batch_size=8")


@pytest.fixture
def task(model, data):
    return Task(data, model, resolve_subset(model, "last_norms"), scoring=ScoringSpec())


@pytest.fixture
def make_source(cfg, task, tmp_path):
    """Return a function that makes the source of a deep ensemble for a number of networks and a seed."""

    def make(num_networks=2, seed=0):
        (source,) = list_deep_ensemble(
            task_spec(cfg),
            task,
            num_networks=num_networks,
            num_train_images=8,
            seed=seed,
            folder=tmp_path / "deep_ensemble",
            make_trainer=instantiate(cfg.trainer),
            machine=MACHINE,
            progress=StageProgress(),
        )
        return source

    return make


@pytest.fixture
def fitted(monkeypatch):
    """Return a list that gets an entry for every training that starts."""
    started, original = [], Classifier.on_train_start
    monkeypatch.setattr(Classifier, "on_train_start", lambda self: (started.append(self), original(self)))
    return started


def test_the_networks_are_trained_as_a_classifier_of_another_seed(make_source, cfg, data, tmp_path):
    source = make_source(seed=3)
    whole_RW = source.make()
    assert (source.name, source.kind, source.gradient_evaluations) == (DEEP_ENSEMBLE, Kind.TRAINED, 10)
    assert infer_kind(DEEP_ENSEMBLE) is Kind.TRAINED and not torch.equal(whole_RW[0], whole_RW[1])

    spec, seed = task_spec(cfg), derive_seed(derive_seed(3, "deep_ensemble"), "independent", 1)
    model = initialize_classifier(spec.model, data, seed)
    train_classifier(
        model,
        spec,
        data,
        planned=PlannedNetwork("classifier", seed),
        history_subset=None,
        state_dir=tmp_path / "alone",
        make_trainer=instantiate(cfg.trainer),
        loggers=(),
        progress=None,
    )
    assert torch.equal(whole_RW[1], flatten(model, resolve_subset(model, "all")))


def test_whole_networks_are_scored_and_only_their_subset_is_kept(make_source, task, data):
    source = make_source()
    table, whole_RW = score_source(source, {}), source.make()
    assert set(table.scores) == {"val", "test"} and table.vectors_MD.shape == (2, task.subset.num_params)
    images, labels = data.test.tensors
    for index, whole_W in enumerate(whole_RW):
        network = build_classifier("test_resnet", num_classes=CLASSES, channels=CHANNELS, image_size=16).eval()
        network.load_state_dict(unflatten(whole_W, resolve_subset(network, "all")), strict=False)
        with torch.no_grad():
            logits = network(data.make_normalizer()(images))
        expected = torch.nn.functional.cross_entropy(logits, labels).item()
        assert table.scores["test"].loss_M[index] == pytest.approx(expected, rel=1e-4)
        np.testing.assert_array_equal(table.scores["test"].wrong_MN[index], (logits.argmax(1) != labels).numpy())
        np.testing.assert_array_equal(table.vectors_MD[index], flatten(network, task.subset).numpy())


def test_trained_networks_are_kept_for_a_later_run_and_for_a_larger_deep_ensemble(make_source, fitted):
    first_RW = make_source().make()
    assert len(fitted) == 2
    assert torch.equal(make_source().make(), first_RW) and len(fitted) == 2
    assert torch.equal(make_source(3).make()[:2], first_RW) and len(fitted) == 3
    assert not torch.isin(make_source(seed=1).make(), first_RW[:, -1:]).any() and len(fitted) == 5


def test_an_interrupted_deep_ensemble_continues_with_the_same_numbers(make_source, monkeypatch, tmp_path):
    unbroken_RW = make_source().make()
    for path in sorted((tmp_path / "deep_ensemble").rglob("*_001.safetensors")):
        path.unlink()
    original = Classifier.on_train_epoch_start

    def crash(self):
        if self.current_epoch == 1:
            raise RuntimeError("the machine went down")
        original(self)

    monkeypatch.setattr(Classifier, "on_train_epoch_start", crash)
    with pytest.raises(RuntimeError, match="went down"):
        make_source().make()
    monkeypatch.setattr(Classifier, "on_train_epoch_start", original)
    assert torch.equal(make_source().make(), unbroken_RW)


def test_no_deep_ensemble_is_made_unless_it_is_asked_for(cfg, task, tmp_path):
    options = {"num_train_images": 8, "seed": 0, "folder": tmp_path, "make_trainer": None, "machine": MACHINE}
    assert list_deep_ensemble(task_spec(cfg), task, num_networks=0, progress=StageProgress(), **options) == []
    check_deep_ensemble(replace(task_spec(cfg), score_with="mine:score", epochs=0), 0)


@pytest.mark.parametrize(
    "num_networks, change, words",
    [
        (1, {}, r"evaluation\.deep_ensemble=1 must be 0 or at least 2"),
        (5, {"score_with": "mine:score"}, r"task\.score_with=mine:score.*Set evaluation\.deep_ensemble=0"),
        (5, {"epochs": 0}, r"task\.epochs of at least 1"),
    ],
)
def test_a_deep_ensemble_that_cannot_be_trained_is_refused(cfg, num_networks, change, words):
    with pytest.raises(UserError, match=words):
        check_deep_ensemble(replace(task_spec(cfg), **change), num_networks)


def test_columns_find_the_numbers_of_a_subset_in_a_whole_network(model):
    part, whole = resolve_subset(model, "last_norms"), resolve_subset(model, "all")
    assert torch.equal(flatten(model, whole)[find_columns(part, whole)], flatten(model, part))
    assert torch.equal(find_columns(whole, whole), torch.arange(whole.num_params))
