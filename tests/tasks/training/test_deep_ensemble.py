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
from tasks.collecting.collection import PlannedNetwork
from tasks.collecting.network_training import NetworkTraining
from tasks.networks.build import build_classifier
from tasks.scoring.scorer import ScoringSpec
from tasks.task import Task
from tasks.training.deep_ensemble import check_deep_ensemble, list_deep_ensemble, train_deep_ensemble
from tasks.training.train_networks import initialize_classifier, train_classifier
from tests.tasks.tiny import CHANNELS, CLASSES, task_config, task_spec

MACHINE = {"precision": "tf32", "devices": 1}


@pytest.fixture
def cfg():
    return task_config("task.model.name=convnet_mini", "task.epochs=1", "task.batch_size=8")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_classifier("convnet_mini", num_classes=CLASSES, channels=CHANNELS, image_size=16).eval()


@pytest.fixture
def task(model, data):
    return Task(data, model, resolve_subset(model, "last_norms", 1), scoring=ScoringSpec())


@pytest.fixture
def train(cfg, data, tmp_path):
    """Return a function that trains a number of networks in one folder."""

    def run(num_networks, seed=0, state_dir=tmp_path / "state"):
        return train_deep_ensemble(
            task_spec(cfg),
            data,
            num_networks=num_networks,
            seed=seed,
            state_dir=state_dir,
            make_trainer=instantiate(cfg.trainer),
            progress=StageProgress(),
        )

    return run


def test_the_networks_are_trained_as_a_classifier_of_another_seed(train, cfg, data, tmp_path):
    whole_RW = train(2, seed=3)
    spec, seed = task_spec(cfg), derive_seed(derive_seed(3, "deep_ensemble"), "independent", 1)
    model = initialize_classifier(spec, data, seed)
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
    assert not torch.equal(whole_RW[0], whole_RW[1])


def test_trained_networks_are_kept_after_an_interruption_and_for_a_larger_deep_ensemble(train, monkeypatch, tmp_path):
    fitted, original = [], NetworkTraining.on_train_start

    def start(self):
        fitted.append(self)
        if len(fitted) == 2:
            raise RuntimeError("the machine went down")
        original(self)

    monkeypatch.setattr(NetworkTraining, "on_train_start", start)
    with pytest.raises(RuntimeError, match="went down"):
        train(2)
    resumed_RW = train(2)
    assert len(fitted) == 3, "the first network is kept"
    assert torch.equal(train(3)[:2], resumed_RW) and len(fitted) == 4
    assert torch.equal(train(2, state_dir=tmp_path / "unbroken"), resumed_RW)


def test_whole_networks_are_scored_and_only_their_subset_is_kept(cfg, task, data, tmp_path):
    (source,) = list_deep_ensemble(
        task_spec(cfg),
        task,
        num_networks=2,
        num_train_images=8,
        seed=0,
        folder=tmp_path / "deep_ensemble",
        make_trainer=instantiate(cfg.trainer),
        machine=MACHINE,
        progress=StageProgress(),
    )
    assert (source.name, source.kind, source.gradient_evaluations) == (DEEP_ENSEMBLE, Kind.TRAINED, 5)
    assert infer_kind(DEEP_ENSEMBLE) is Kind.TRAINED
    table, whole_RW = score_source(source, {}), source.make()
    assert set(table.scores) == {"val", "test"} and table.vectors_MD.shape == (2, task.subset.num_params)
    images, labels = data.test.tensors
    for index, whole_W in enumerate(whole_RW):
        network = build_classifier("convnet_mini", num_classes=CLASSES, channels=CHANNELS, image_size=16).eval()
        network.load_state_dict(unflatten(whole_W, resolve_subset(network, "all")), strict=False)
        with torch.no_grad():
            logits = network(data.make_normalizer()(images))
        expected = torch.nn.functional.cross_entropy(logits, labels).item()
        assert table.scores["test"].loss_M[index] == pytest.approx(expected, rel=1e-4)
        np.testing.assert_array_equal(table.scores["test"].wrong_MN[index], (logits.argmax(1) != labels).numpy())
        np.testing.assert_array_equal(table.vectors_MD[index], flatten(network, task.subset).numpy())


def test_no_deep_ensemble_is_made_unless_it_is_asked_for(cfg, task, tmp_path):
    options = {"num_train_images": 8, "seed": 0, "folder": tmp_path, "make_trainer": None, "machine": MACHINE}
    assert list_deep_ensemble(task_spec(cfg), task, num_networks=0, progress=StageProgress(), **options) == []
    check_deep_ensemble(replace(task_spec(cfg), score_with="mine:score", epochs=0), 0, imported=True)
    check_deep_ensemble(replace(task_spec(cfg), score_with="mine:score"), 5, imported=False)


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
        check_deep_ensemble(replace(task_spec(cfg), **change), num_networks, imported=True)


def test_columns_find_the_numbers_of_a_subset_in_a_whole_network(model):
    part, whole = resolve_subset(model, "last_norms", 1), resolve_subset(model, "all")
    assert torch.equal(flatten(model, whole)[find_columns(part.names, whole)], flatten(model, part))
    assert torch.equal(find_columns(whole.names, whole), torch.arange(whole.num_params))
