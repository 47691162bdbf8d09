"""Training classifiers: one or several, interrupted or not, in one process or two, and the order of their images."""

import math
import multiprocessing
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import Callback
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

from core.checkpoints.subset import flatten, resolve_subset
from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed
from core.runtime.trainer import fit
from tasks.collecting.network_training import NetworkTraining, TrainingItems
from tasks.data.loaders import make_training_loader
from tasks.data.splits import TransformedImages
from tasks.networks.build import build_classifier
from tasks.objectives.classification import Classification
from tasks.training.train_networks import initialize_classifier, train_networks
from tests.tasks.tiny import CHANNELS, CLASSES, independent_config, steps_config, task_config, task_spec


@pytest.mark.parametrize("batch_size, sizes", [(8, [8] * 5), (13, [13] * 3), (64, [40])])
def test_leftover_images_are_skipped_unless_there_is_less_than_one_batch(data, batch_size, sizes):
    assert [len(labels) for _, labels in make_training_loader(data.train, batch_size, seed=0)] == sizes


def test_training_history_starts_and_ends_with_the_networks_own_values(model, data):
    cfg, subset = steps_config("task.epochs=2"), resolve_subset(model, "last_norms")
    start_D = flatten(model, subset)
    module = NetworkTraining(
        model, data.objective, make_optimizer=instantiate(cfg.task.optimizer), history_subset=subset, num_epochs=2
    )
    trainer = instantiate(cfg.trainer)(max_epochs=2, logger=False, enable_checkpointing=False)
    trainer.fit(module, torch.utils.data.DataLoader(data.train, 8))
    assert torch.equal(module.history_ED[0], start_D)
    assert torch.equal(module.history_ED[2], flatten(model, subset))
    assert not torch.equal(module.history_ED[1], module.history_ED[2])


class StopsAfter(Callback):
    """A callback that interrupts training as a crash would."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epochs:
            raise RuntimeError("the machine went down")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_training_equals_an_uninterrupted_one_with_any_number_of_workers(tmp_path, data, num_workers):
    cfg = steps_config("task.epochs=4", "task.batch_size=8")

    def train(folder, num_workers, *stops):
        torch.manual_seed(0)
        model = build_classifier("test_resnet", num_classes=CLASSES, channels=CHANNELS, image_size=16)
        module = NetworkTraining(
            model,
            data.objective,
            make_optimizer=instantiate(cfg.task.optimizer),
            make_scheduler=instantiate(cfg.task.scheduler),
            warmup_steps=12,  # the interruption after 10 of 20 steps falls into the warm-up
            seed=3,
        )
        torch.manual_seed(len(stops))  # earlier draws must not change the training
        fit(
            module,
            TrainingItems(images, 8, seed=3, num_workers=num_workers),
            name="classifier",
            state_dir=folder / "state",
            make_trainer=instantiate(cfg.trainer),
            callbacks=stops,
            max_epochs=4,
        )
        return model.state_dict()

    images = replace(
        data, train=TransformedImages(data.train, range(40), lambda image: image + 0.1 * torch.randn_like(image))
    )
    unbroken = train(tmp_path / "unbroken", 0)
    with pytest.raises(RuntimeError, match="went down"):
        train(tmp_path / "broken", num_workers, StopsAfter(2))
    resumed = train(tmp_path / "broken", num_workers)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in unbroken.items())


def test_every_process_and_epoch_has_its_own_seed(model, monkeypatch):
    module, seeds = NetworkTraining(model, Classification(CLASSES), make_optimizer=None, seed=3), set()
    for rank in (0, 1):
        monkeypatch.setattr(NetworkTraining, "global_rank", rank)
        for epoch in (0, 1):
            monkeypatch.setattr(NetworkTraining, "current_epoch", epoch)
            module.on_train_epoch_start()
            seeds.add(torch.initial_seed())
    assert len(seeds) == 4


def train(cfg, data, state_dir):
    return train_networks(task_spec(cfg), data, state_dir=state_dir, make_trainer=instantiate(cfg.trainer), loggers=())


def test_the_warm_up_scales_the_rate_of_the_schedule_and_long_gradients_are_shortened(tmp_path, data):
    options = ["task.model.name=convnet_mini", "task.epochs=3", "task.batch_size=8", "task.optimizer.lr=0.01"]
    optimizer = ["task.optimizer._target_=torch.optim.SGD", "task.param.subset=all"]
    cfg = task_config(*options, *optimizer, "task.warmup_steps=8", "task.gradient_clip=0.3")
    trained = train(cfg, data, tmp_path / "state")

    model = initialize_classifier(task_spec(cfg), data, cfg.task.seed).train()
    optimizer = instantiate(cfg.task.optimizer)(model.parameters())
    loader, norms = TrainingItems(data, 8, seed=cfg.task.seed).train_dataloader(), []
    for step in range(15):
        if step % 5 == 0:
            loader.sampler.set_epoch(step // 5)
            batches = iter(loader)
        cosine = 0.5 * (1 + math.cos(math.pi * (step // 5) / 3))  # the schedule moves once per epoch of 5 steps
        optimizer.param_groups[0]["lr"] = 0.01 * cosine * min(1, (step + 1) / 8)
        images, labels = next(batches)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(data.make_normalizer()(images)), labels).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3))
        optimizer.step()
    assert min(norms) > 0.3, "no gradient is short enough to stay as it is"
    last_D = flatten(trained.model, trained.subset)
    torch.testing.assert_close(last_D, flatten(model, trained.subset), rtol=1e-4, atol=1e-6)


def test_independent_checkpoints_are_the_last_weights_of_networks_from_different_seeds(tmp_path, data):
    cfg = independent_config()
    trained = train(cfg, data, tmp_path / "state")
    last_RD = trained.files.open_rows().to_tensor()
    assert len(torch.unique(last_RD, dim=0)) == 3
    assert torch.equal(last_RD[0], flatten(trained.model, trained.subset)), "the stored network is not the first one"
    assert not trained.model.training and "layer4.0.bn2.running_var" in trained.subset.names

    seed = derive_seed(cfg.task.seed, "independent", 2)
    torch.manual_seed(derive_seed(seed, "classifier/init"))
    model = build_classifier("test_resnet", num_classes=CLASSES, channels=CHANNELS, image_size=16)
    module = NetworkTraining(
        model,
        data.objective,
        make_optimizer=instantiate(cfg.task.optimizer),
        make_scheduler=instantiate(cfg.task.scheduler),
        seed=seed,
    )
    instantiate(cfg.trainer)(max_epochs=2, logger=False, enable_checkpointing=False).fit(
        module, make_training_loader(data.train, 8, seed)
    )
    assert torch.equal(last_RD[2], flatten(model, trained.subset)) and trained.num_steps == 10


def test_finished_networks_are_not_trained_again(tmp_path, data, monkeypatch):
    cfg, fitted, original = independent_config("task.model.name=convnet_mini"), [], NetworkTraining.on_train_start

    def start(self):
        fitted.append(self)
        if len(fitted) == stops_at:
            raise RuntimeError("the machine went down")
        original(self)

    monkeypatch.setattr(NetworkTraining, "on_train_start", start)
    stops_at = None
    unbroken = train(cfg, data, tmp_path / "unbroken")
    fitted.clear()
    stops_at = 3
    with pytest.raises(RuntimeError, match="went down"):
        train(cfg, data, tmp_path / "broken")
    resumed = train(cfg, data, tmp_path / "broken")
    assert len(fitted) == 4, "3 networks are trained, and the third is started twice"
    rows, expected = (networks.files.open_rows().to_tensor() for networks in (resumed, unbroken))
    assert torch.equal(rows, expected) and torch.equal(resumed.history_ED, unbroken.history_ED)
    assert resumed.seconds > 0


def test_independent_networks_need_the_whole_network_to_be_generated(tmp_path, data):
    expected = (
        r"task\.param\.subset=last_norms cannot be used with task\.collect=independent.*Set task\.param\.subset=all"
    )
    with pytest.raises(UserError, match=expected):
        train(independent_config("task.param.subset=last_norms"), data, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"task\.param\.subset=\['layer\*'\].*task\.param\.subset=all"):
        train(independent_config("task.param.subset=[layer*]"), data, tmp_path)


def test_two_processes_train_as_one_whose_batches_are_twice_as_large(tmp_path, data):
    options = [
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "task.model.name=convnet_mini",
        "task.epochs=2",
        "task.batch_size=6",
    ]
    cfg = task_config("task.param.subset=all", *options)  # BatchNorm would keep statistics of one process only
    trained = train(cfg, data, tmp_path / "state")

    model = initialize_classifier(task_spec(cfg), data, cfg.task.seed).train()
    optimizer = instantiate(cfg.task.optimizer)(model.parameters())
    scheduler = instantiate(cfg.task.scheduler)(optimizer)
    images, labels = data.train.tensors
    for epoch in range(2):
        order = make_training_loader(data.train, 6, cfg.task.seed).sampler
        order.set_epoch(epoch)
        shuffled = torch.tensor([draw.image for draw in order])
        for start in range(0, 36, 12):  # the last 4 of the 40 images do not fill a batch and are skipped
            rows = shuffled[start : start + 12]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        scheduler.step()
    last_D = flatten(trained.model, trained.subset)
    torch.testing.assert_close(last_D, flatten(model, trained.subset), rtol=1e-3, atol=1e-5)
    assert (
        trained.seconds > 0
        and torch.equal(trained.history_ED[-1], last_D)
        and not torch.equal(trained.history_ED[1], trained.history_ED[2])
    )
    assert not torch.distributed.is_initialized(), "later code would wait for the other process"


@pytest.fixture
def quick_start():
    """Return the setting of a strategy whose processes begin as copies of one that has imported the code already.

    It saves most of the time of a test whose training ends at once. The strategy of trainer=ddp imports the code in
    every process.
    """
    name = "ddp_forkserver"
    multiprocessing.set_forkserver_preload([__name__])
    if name not in StrategyRegistry:
        StrategyRegistry.register(name, DDPStrategy, start_method="forkserver")
    return f"trainer.strategy={name}"


def test_too_few_images_for_a_batch_in_each_process_are_refused(tmp_path, data, quick_start):
    options = [
        quick_start,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "task.model.name=convnet_mini",
        "task.epochs=1",
        "task.batch_size=30",
    ]
    with pytest.raises(UserError, match=r"classifier: .*2 devices.*task\.batch_size"):
        train(task_config(*options), data, tmp_path / "state")
    assert not (tmp_path / "state/classifier.safetensors").exists()


class Unreadable(TransformedImages):
    def __getitem__(self, index):
        raise UserError(f"image {index} cannot be read; remove it")


def test_an_error_in_one_of_several_processes_is_a_user_error(tmp_path, data, quick_start):
    broken = replace(data, train=Unreadable(data.train, range(40), None))
    with pytest.raises(UserError, match=r"UserError: image \d+ cannot be read; remove it"):
        train(
            task_config(
                quick_start,
                "trainer=ddp",
                "trainer.accelerator=cpu",
                "trainer.devices=2",
                "task.model.name=convnet_mini",
                "task.epochs=1",
                "task.batch_size=8",
            ),
            broken,
            tmp_path / "state",
        )
