"""Collecting: what is trained, what stays frozen, what a snapshot is."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning import Callback
from torch.utils.data import DataLoader, TensorDataset

from core.checkpoints.subset import flatten, resolve_subset
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from core.runtime.seeding import derive_seed
from core.runtime.trainer import fit
from tasks.classifier import Classifier, training_loader
from tasks.collection import check_collection, collect_vectors, recorded_settings, snapshot_interval, train_networks
from tasks.data.splits import ImageData, TransformedImages
from tasks.models import build_classifier

CHANNELS, CLASSES = 3, 4


def task_config(*overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("base", overrides=["trainer=cpu", *overrides])


def steps_config(*overrides):
    return task_config("task.collect.batch_size=8", "task.param.k=7", *overrides)


def independent_config(*overrides):
    small = ["task.model.name=test_resnet", "task.epochs=2", "task.batch_size=8"]
    return task_config("task/collect=independent", "task.collect.runs=3", "task.param.subset=all", *small, *overrides)


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
    cfg = steps_config()  # 40 images in batches of 8: the 7 steps need a second epoch
    subset = resolve_subset(model, "last_norms")
    vectors_KD = collect(cfg, model, data, subset)
    assert vectors_KD.shape == (7, subset.num_params)
    assert len(torch.unique(vectors_KD, dim=0)) == 7
    steps = (vectors_KD[1:] - vectors_KD[:-1]).abs().amax(dim=1)
    # AdamW's first steps move a coordinate by about the learning rate
    assert ((steps > 0.3 * cfg.task.collect.optimizer.lr) & (steps < 3 * cfg.task.collect.optimizer.lr)).all()


def test_fewer_checkpoints_are_the_first_ones_of_more(model, data):
    subset = resolve_subset(model, "last_norms")
    few, more = (collect(steps_config(f"task.param.k={k}"), model, data, subset) for k in (3, 7))
    assert torch.equal(few, more[:3])


@pytest.mark.parametrize("every, rows", [(2, [1, 3, 5]), (3, [2, 5, 8]), ("spread", [0, 1, 2])])
def test_steps_between_checkpoints_are_skipped(model, data, every, rows):
    subset = resolve_subset(model, "last_norms")
    all_KD = collect(steps_config("task.param.k=9"), model, data, subset)
    some_KD = collect(steps_config("task.param.k=3", f"task.collect.every={every}"), model, data, subset)
    assert torch.equal(some_KD, all_KD[rows])


@pytest.mark.parametrize("every, k, steps_per_epoch, interval", [
    (1, 7, 5, 1), (3, 7, 5, 3), ("spread", 5, 5, 1), ("spread", 5, 9, 1), ("spread", 5, 10, 2), ("spread", 300, 10_009, 33), ("spread", 20, 5, 1),
])  # fmt: skip
def test_spread_checkpoints_fill_one_epoch(every, k, steps_per_epoch, interval):
    assert snapshot_interval(every, k, steps_per_epoch) == interval


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "often", None])
def test_an_impossible_interval_is_refused(every):
    with pytest.raises(UserError, match=f"task.collect.every={every}: expected a whole number.*spread"):
        snapshot_interval(every, 5, 5)


def test_collecting_leaves_the_network_as_it_was(model, data):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    collect(steps_config(), model, data, resolve_subset(model, "last_norms"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_only_the_subset_moves_and_statistics_stay(model, data, monkeypatch):
    seen = {}
    original = Classifier.configure_optimizers

    def remember(self):
        seen["module"] = self
        return original(self)

    monkeypatch.setattr(Classifier, "configure_optimizers", remember)
    subset = resolve_subset(model, "last_norms")
    collect(steps_config(), model, data, subset)
    after, before = seen["module"].model.state_dict(), model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(subset.names)


def test_statistics_move_when_they_are_part_of_the_subset(model, data):
    subset = resolve_subset(model, ["layer4.0.bn2.*"])
    assert "layer4.0.bn2.running_mean" in subset.names
    vectors_KD = collect(steps_config(), model, data, subset)
    columns = slice(*torch.tensor([0, *subset.sizes]).cumsum(0)[[2, 3]].tolist())
    assert subset.names[2] == "layer4.0.bn2.running_mean"
    assert not torch.equal(vectors_KD[0, columns], vectors_KD[-1, columns])


@pytest.mark.parametrize("batch_size, sizes", [(8, [8] * 5), (13, [13] * 3), (64, [40])])
def test_leftover_images_make_no_small_batch_unless_there_are_only_so_many(data, batch_size, sizes):
    assert [len(labels) for _, labels in training_loader(data.train, batch_size, seed=0)] == sizes


def test_training_history_starts_and_ends_with_the_networks_own_values(model, data):
    cfg, subset = steps_config("task.epochs=2"), resolve_subset(model, "last_norms")
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
    cfg = steps_config("task.epochs=4", "task.batch_size=8")

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
    here = recorded_settings(steps_config("task.data.root=/here", "task.data.verify=false", "task.param.k=9", "task.param.path=x").task)
    there = recorded_settings(steps_config("task.data.root=/there", "task.data.num_workers=3", "task.param.k=5").task)
    assert here == there
    assert recorded_settings(steps_config("task.epochs=1").task) != recorded_settings(steps_config("task.epochs=2").task)


def test_a_default_task_records_how_it_collects():
    collect_settings = recorded_settings(task_config().task)["task"]["collect"]
    optimizer = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.03, "weight_decay": 5e-4}
    assert collect_settings == {"batch_size": 32, "every": 1, "optimizer": optimizer}


def train(cfg, data, state_dir):
    return train_networks(cfg.task, data, state_dir=state_dir, make_trainer=instantiate(cfg.trainer), loggers=(), label="")


def test_independent_checkpoints_are_the_last_weights_of_networks_from_different_seeds(tmp_path, data):
    cfg = independent_config()
    trained = train(cfg, data, tmp_path / "state")
    assert len(torch.unique(trained.last_RD, dim=0)) == 3
    assert torch.equal(trained.last_RD[0], flatten(trained.model, trained.subset)), "the stored network is not run 0's"
    assert not trained.model.training and "layer4.0.bn2.running_var" in trained.subset.names

    seed = derive_seed(cfg.task.seed, "independent", 2)
    torch.manual_seed(derive_seed(seed, "classifier/init"))
    model = build_classifier("test_resnet", CLASSES, CHANNELS, 16)
    module = Classifier(model, CLASSES, make_optimizer=instantiate(cfg.task.optimizer), make_scheduler=instantiate(cfg.task.scheduler), seed=seed)
    instantiate(cfg.trainer)(max_epochs=2, logger=False, enable_checkpointing=False).fit(module, training_loader(data.train, 8, seed))
    assert torch.equal(trained.last_RD[2], flatten(model, trained.subset))


def test_finished_networks_are_not_trained_again(tmp_path, data, monkeypatch):
    cfg, fitted, original = independent_config("task.model.name=convnet_mini"), [], Classifier.on_train_start

    def start(self):
        fitted.append(self)
        if len(fitted) == stops_at:
            raise RuntimeError("the machine went down")
        original(self)

    monkeypatch.setattr(Classifier, "on_train_start", start)
    stops_at = None
    unbroken = train(cfg, data, tmp_path / "unbroken")
    fitted.clear()
    stops_at = 3
    with pytest.raises(RuntimeError, match="went down"):
        train(cfg, data, tmp_path / "broken")
    resumed = train(cfg, data, tmp_path / "broken")
    assert len(fitted) == 4, "of 3 networks the third was begun twice"
    assert torch.equal(resumed.last_RD, unbroken.last_RD) and torch.equal(resumed.history_ED, unbroken.history_ED)
    assert resumed.seconds > 0


def test_independent_networks_need_the_whole_network_to_be_generated(tmp_path, data):
    with pytest.raises(UserError, match="task.param.subset=last_norms.*give task.param.subset=all"):
        train(independent_config("task.param.subset=last_norms"), data, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="give task.param.subset=all"):
        train(independent_config("task.param.subset=[layer*]"), data, tmp_path)


def test_as_many_checkpoints_as_networks():
    assert independent_config().task.param.k == 3
    assert independent_config("task.collect.runs=20").task.param.k == 20
    check_collection(independent_config("task.param.k=2").task)
    with pytest.raises(UserError, match="task.param.k=4.*task.collect.runs=3.*at most 3"):
        check_collection(independent_config("task.param.k=4").task)


@pytest.mark.parametrize("runs", [0, 1, 2.5, "many"])
def test_too_few_networks_are_refused(runs):
    with pytest.raises(UserError, match=f"task.collect.runs={runs}: expected.*at least 2"):
        check_collection(independent_config(f"task.collect.runs={runs}").task)


def test_independent_settings_say_so_and_leave_the_number_of_networks_open():
    settings = recorded_settings(independent_config().task)
    assert settings["task"]["collect"] == "independent"
    assert settings == recorded_settings(independent_config("task.collect.runs=9").task)
    assert settings != recorded_settings(steps_config("task.param.subset=all", "task.model.name=test_resnet", "task.epochs=2", "task.batch_size=8").task)
