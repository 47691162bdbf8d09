"""Collecting: what is trained, what stays frozen, what a snapshot is."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning import Callback
from torch.utils.data import DataLoader, TensorDataset

from core.checkpoints.subset import flatten, resolve_subset
from core.runtime.provenance import ROOT
from core.runtime.trainer import fit
from tasks.classifier import Classifier, training_loader
from tasks.collection import collect_vectors, recorded_settings
from tasks.data.splits import ImageData, TransformedImages
from tasks.models import build_classifier

CHANNELS, CLASSES = 3, 4


def task_config(*overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("base", overrides=["trainer=cpu", "task.collect.batch_size=8", "task.param.k=7", *overrides])


@pytest.fixture
def data():
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(40, CHANNELS, 16, 16), torch.randint(CLASSES, (40,)))
    return ImageData(images, images, images, CLASSES, CHANNELS, 16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_classifier("test_resnet", CLASSES, CHANNELS, 16).eval()


def collect(cfg, model, data, subset):
    return collect_vectors(cfg.task, model, data, subset, instantiate(cfg.trainer), "collect")


def test_one_snapshot_per_optimizer_step_across_epochs(model, data):
    cfg = task_config()  # 40 images in batches of 8: the 7 steps need a second epoch
    subset = resolve_subset(model, "last_norms")
    vectors_KD = collect(cfg, model, data, subset)
    assert vectors_KD.shape == (7, subset.num_params)
    assert len(torch.unique(vectors_KD, dim=0)) == 7
    steps = (vectors_KD[1:] - vectors_KD[:-1]).abs().amax(dim=1)
    # AdamW's first steps move a coordinate by about the learning rate
    assert ((steps > 0.3 * cfg.task.collect.optimizer.lr) & (steps < 3 * cfg.task.collect.optimizer.lr)).all()


def test_fewer_checkpoints_are_the_first_ones_of_more(model, data):
    subset = resolve_subset(model, "last_norms")
    few, more = (collect(task_config(f"task.param.k={k}"), model, data, subset) for k in (3, 7))
    assert torch.equal(few, more[:3])


def test_collecting_leaves_the_network_as_it_was(model, data):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    collect(task_config(), model, data, resolve_subset(model, "last_norms"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_only_the_subset_moves_and_statistics_stay(model, data, monkeypatch):
    seen = {}
    original = Classifier.configure_optimizers

    def remember(self):
        seen["module"] = self
        return original(self)

    monkeypatch.setattr(Classifier, "configure_optimizers", remember)
    subset = resolve_subset(model, "last_norms")
    collect(task_config(), model, data, subset)
    after, before = seen["module"].model.state_dict(), model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(subset.names)


def test_statistics_move_when_they_are_part_of_the_subset(model, data):
    subset = resolve_subset(model, ["layer4.0.bn2.*"])
    assert "layer4.0.bn2.running_mean" in subset.names
    vectors_KD = collect(task_config(), model, data, subset)
    columns = slice(*torch.tensor([0, *subset.sizes]).cumsum(0)[[2, 3]].tolist())
    assert subset.names[2] == "layer4.0.bn2.running_mean"
    assert not torch.equal(vectors_KD[0, columns], vectors_KD[-1, columns])


@pytest.mark.parametrize("batch_size, sizes", [(8, [8] * 5), (13, [13] * 3), (64, [40])])
def test_leftover_images_make_no_small_batch_unless_there_are_only_so_many(data, batch_size, sizes):
    assert [len(labels) for _, labels in training_loader(data.train, batch_size, seed=0)] == sizes


def test_training_history_starts_and_ends_with_the_networks_own_values(model, data):
    cfg, subset = task_config("task.epochs=2"), resolve_subset(model, "last_norms")
    start_D = flatten(model, subset)
    module = Classifier(model, CLASSES, make_optimizer=instantiate(cfg.task.optimizer), history_of=subset, num_epochs=2)
    trainer = instantiate(cfg.trainer)(max_epochs=2, logger=False, enable_checkpointing=False)
    trainer.fit(module, torch.utils.data.DataLoader(data.train, 8))
    assert torch.equal(module.history_ED[0], start_D)
    assert torch.equal(module.history_ED[2], flatten(model, subset))
    assert not torch.equal(module.history_ED[1], module.history_ED[2])


class StopsAfter(Callback):
    """As if the machine went down."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epochs:
            raise RuntimeError("the machine went down")


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path, data):
    cfg = task_config("task.epochs=4", "task.batch_size=8")

    def train(folder, *stops):
        torch.manual_seed(0)
        model = build_classifier("test_resnet", CLASSES, CHANNELS, 16)
        module = Classifier(model, CLASSES, make_optimizer=instantiate(cfg.task.optimizer), make_scheduler=instantiate(cfg.task.scheduler), seed=3)
        torch.manual_seed(len(stops))  # what was drawn before must not matter
        loader = training_loader(augmented, 8, seed=3)
        fit(module, loader, name="classifier", label="", state_dir=folder / "state", make_trainer=instantiate(cfg.trainer), callbacks=stops, val_loader=DataLoader(data.val, 8), max_epochs=4)
        return model.state_dict()

    augmented = TransformedImages(data.train, range(40), lambda image: image + 0.1 * torch.randn_like(image))
    unbroken = train(tmp_path / "unbroken")
    with pytest.raises(RuntimeError, match="went down"):
        train(tmp_path / "broken", StopsAfter(2))
    resumed = train(tmp_path / "broken")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in unbroken.items())


def test_settings_that_do_not_change_the_checkpoints_are_not_recorded():
    here = recorded_settings(task_config("task.data.root=/here", "task.data.verify=false", "task.param.k=9", "task.param.path=x").task)
    there = recorded_settings(task_config("task.data.root=/there", "task.data.num_workers=3", "task.param.k=5").task)
    assert here == there
    assert recorded_settings(task_config("task.epochs=1").task) != recorded_settings(task_config("task.epochs=2").task)
