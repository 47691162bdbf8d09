"""Held-out vectors, the origin of each vector, and collections that are interrupted and resumed."""

from datetime import timedelta

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import Callback
from torch.utils.data import DataLoader

from core.checkpoints import shards
from core.checkpoints.subset import resolve_subset, unflatten
from core.runtime import trainer
from core.runtime.errors import UserError
from core.runtime.progress import Stages
from tasks.collecting.collection import TrainedNetworks
from tasks.collecting.steps import SubsetTraining, find_owners_of_statistics
from tasks.data.loaders import make_training_loader
from tasks.objectives.classification import Classification
from tasks.scoring.scorer import ScoringSpec
from tasks.training.collect_checkpoints import collect_checkpoints
from tests.core.tiny import StopAfter, assert_same
from tests.tasks.collecting.test_collection import collect_vectors
from tests.tasks.tiny import independent_config, steps_config, task_spec

# 7 checkpoints and 4 held-out vectors at every second step: 22 steps over 5 epochs of 5 steps.
WORDS = ["task.collect.held_out=4", "task.collect.every=2"]


@pytest.fixture
def subset(model):
    return resolve_subset(model, "last_norms")


def contents(collected):
    """Return all tensors of a collection by name."""
    named = {"rows": collected.rows.to_tensor(), "origin": collected.origin_K2, "held_out": collected.held_out_HD}
    named |= {"held_out_origin": collected.held_out_origin_H2}
    return named | {
        f"{name}/{key}": value for name, state in collected.optimizer_state.items() for key, value in state.items()
    }


def test_held_out_vectors_are_the_next_ones_and_change_nothing_before(model, data, subset, tmp_path):
    trained = TrainedNetworks(model, subset)
    with_them = collect_vectors(steps_config(*WORDS), trained, data, tmp_path / "a")
    without = collect_vectors(steps_config("task.collect.every=2"), trained, data, tmp_path / "b")
    more = collect_vectors(steps_config("task.param.k=11", "task.collect.every=2"), trained, data, tmp_path / "c")
    assert torch.equal(with_them.rows.to_tensor(), without.rows.to_tensor())
    assert torch.equal(with_them.held_out_HD, more.rows.to_tensor()[7:])
    assert with_them.origin_K2.tolist() == [[0, step] for step in range(2, 15, 2)]
    assert with_them.held_out_origin_H2.tolist() == [[0, step] for step in range(16, 23, 2)]
    assert without.held_out_HD is None and without.held_out_origin_H2 is None
    states = (collected.optimizer_state for collected in (with_them, without))
    for state, other in zip(*(sorted(state.items()) for state in states), strict=True):
        assert state[0] == other[0] and state[1].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert state[1]["step"] == 14
        assert_same(state[1], other[1])
    assert {name for name, _ in with_them.optimizer_state.items()} == set(subset.names)


# Interruptions before any training state, among the checkpoints, among the held-out vectors, and after the last step.
@pytest.mark.parametrize("steps", [1, 9, 17, 22])
def test_an_interrupted_collection_equals_an_unbroken_one(model, data, subset, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(microseconds=1))
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * 4 * subset.num_params)
    cfg, trained = steps_config(*WORDS), TrainedNetworks(model, subset)
    unbroken = collect_vectors(cfg, trained, data, tmp_path / "unbroken")
    with pytest.raises(RuntimeError, match="stopped by the test"):
        collect_vectors(cfg, trained, data, tmp_path / "broken", StopAfter(steps))
    seen = []
    monkeypatch.setattr(SubsetTraining, "on_train_batch_start", lambda self, *_: seen.append(self.global_step))
    resumed = collect_vectors(cfg, trained, data, tmp_path / "broken")
    assert_same(contents(resumed), contents(unbroken))
    assert [len(rows) for rows in resumed.rows.shards] == [3, 3, 1]
    assert seen == list(range(steps - 1, 22)), "a resumed collection repeats no step before its training state"
    again = collect_vectors(cfg, trained, data, tmp_path / "broken")
    assert_same(contents(again), contents(unbroken))


@pytest.mark.parametrize("change", ["a file is missing", "another k"])
def test_a_training_state_without_its_vectors_is_not_continued(model, data, subset, tmp_path, monkeypatch, change):
    monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(microseconds=1))
    cfg, trained = steps_config(*WORDS), TrainedNetworks(model, subset)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        collect_vectors(cfg, trained, data, tmp_path / "broken", StopAfter(9))
    if change == "another k":
        cfg = steps_config(*WORDS, "task.param.k=5")
    else:
        (tmp_path / "broken/vectors-00000.safetensors").unlink()
    resumed = collect_vectors(cfg, trained, data, tmp_path / "broken")
    assert_same(contents(resumed), contents(collect_vectors(cfg, trained, data, tmp_path / "unbroken")))


REFUSED = r"only {} of the 22 optimizer steps that 11 checkpoints need\..*trainer\.limit_train_batches"


@pytest.mark.parametrize("option, steps", [
    ("limit_train_batches=6", 6), ("max_steps=16", 16), ("fast_dev_run=true", 1), ("accumulate_grad_batches=2", 11),
])  # fmt: skip
def test_an_option_that_ends_the_training_early_is_refused(model, data, subset, tmp_path, option, steps):
    cfg = steps_config(*WORDS, f"+trainer.{option}")
    for _ in range(2):  # the second attempt does not take the first one for a finished fit
        with pytest.raises(UserError, match=REFUSED.format(steps)):
            collect_vectors(cfg, TrainedNetworks(model, subset), data, tmp_path)
    assert not list(tmp_path.glob("collect.*")), "nothing was trained"


class EndEarly(Callback):
    """A callback that ends the training after 16 steps, among the held-out vectors, without an error."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == 16


def test_a_training_that_ended_early_is_refused_and_resumed(model, data, subset, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(microseconds=1))
    cfg, trained = steps_config(*WORDS), TrainedNetworks(model, subset)
    with pytest.raises(UserError, match=REFUSED.format(16)):
        collect_vectors(cfg, trained, data, tmp_path / "early", EndEarly())
    assert (tmp_path / "early/collect.ckpt").is_file() and not (tmp_path / "early/collect.safetensors").exists()
    resumed = collect_vectors(cfg, trained, data, tmp_path / "early")
    assert_same(contents(resumed), contents(collect_vectors(cfg, trained, data, tmp_path / "whole")))


def test_the_vectors_reach_the_disk_before_the_fit_counts_as_finished(model, data, subset, tmp_path, monkeypatch):
    events = []
    for owner, name in ((shards.ShardFile, "write"), (shards.ShardFile, "sync"), (trainer, "save_artifact")):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *args, _name=name, _do=original, **more: events.append(_name) or _do(*args, **more)
        )
    collect_vectors(steps_config(*WORDS), TrainedNetworks(model, subset), data, tmp_path)
    assert events[-4:] == ["write", "sync", "sync", "save_artifact"]  # the checkpoints and the held-out vectors


def test_the_training_state_of_other_vectors_is_deleted_before_new_files_exist(
    model, data, subset, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(microseconds=1))
    trained = TrainedNetworks(model, subset)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        collect_vectors(steps_config(*WORDS), trained, data, tmp_path, StopAfter(9))
    states = []
    monkeypatch.setattr(shards.ShardFile, "create", lambda _: states.append(list(tmp_path.glob("collect.*"))) or 1 / 0)
    assert (tmp_path / "collect.ckpt").is_file()
    with pytest.raises(ZeroDivisionError):
        collect_vectors(steps_config(*WORDS, "task.param.k=5"), trained, data, tmp_path)
    assert states == [[]]


@pytest.mark.parametrize("batch_size", [8, 64])
def test_a_pass_over_steps_has_the_batches_of_its_epochs_from_any_step_on(data, batch_size):
    def batches(loader):
        return [images for images, _ in loader]

    loader, expected = make_training_loader(data.train, batch_size, seed=3), []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        expected += batches(loader)
    for first in (0, 1, len(loader), len(expected) - 2):
        whole = make_training_loader(data.train, batch_size, 3, num_steps=len(expected) - 1, first_step=first)
        assert len(whole) == len(expected) - 1
        whole.sampler.set_epoch(7)  # as Lightning does, which takes the pass for one epoch
        found = batches(whole)
        assert len(found) == len(expected) - 1 - first
        assert all(map(torch.equal, found, expected[first:-1]))


def test_only_layers_that_own_a_generated_statistic_are_in_training_mode(model, data, tmp_path):
    task = task_spec(steps_config("task.epochs=0", "task.model.name=test_resnet", "task.param.subset=[layer4.0.bn2.*]"))
    modules = []
    original = SubsetTraining.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubsetTraining, "train", lambda self, mode=True: modules.append(self) or original(self, mode))
        collected = collect_checkpoints(
            task,
            data,
            settings={},
            state_dir=tmp_path / "state",
            make_trainer=instantiate(steps_config().trainer),
            loggers=(),
            stages=Stages(["train_task", "collect"]),
            scoring=ScoringSpec(),
        )
    tuned = modules[0].model
    names = {name for name in tuned.state_dict() if not torch.equal(tuned.state_dict()[name], collected.network[name])}
    assert names == {*collected.subset.names, "layer4.0.bn2.num_batches_tracked"}
    assert {"layer4.0.bn2.running_mean", "layer4.0.bn2.running_var"} <= set(collected.subset.names)
    model.load_state_dict(collected.network)
    correct = []
    for vector_D in collected.vectors_KD:
        model.load_state_dict(unflatten(vector_D, collected.subset), strict=False)
        hits = [
            (model.eval()(images).argmax(1) == labels).double().mean() for images, labels in DataLoader(data.val, 40)
        ]
        correct.append(hits[0].item())
    assert correct == pytest.approx(collected.accuracy_K.tolist())


def test_the_mode_of_the_network_follows_its_subset(model):
    owner = ["layer4.0.bn2"]
    assert find_owners_of_statistics(model, resolve_subset(model, ["layer4.0.bn2.running_var"])) == owner
    assert find_owners_of_statistics(model, resolve_subset(model, "last_norms")) == []
    for train_only, expected in ((owner, owner), ([], []), (None, [name for name, _ in model.named_modules()])):
        module = SubsetTraining(model, Classification(4), make_optimizer=None, train_only=train_only).train()
        assert [name for name, part in model.named_modules() if part.training] == expected
        module.eval()
        assert not any(part.training for part in model.modules())


def test_whole_networks_can_be_held_out(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)  # a shard for each row
    words = ["task.model.name=convnet_mini", "task.epochs=1"]

    def run(folder, *more):
        cfg = independent_config(*words, *more)
        return collect_checkpoints(
            task_spec(cfg),
            data,
            settings={},
            state_dir=tmp_path / folder,
            make_trainer=instantiate(cfg.trainer),
            loggers=(),
            stages=Stages(["train_task", "collect"]),
            scoring=ScoringSpec(),
        )

    held, whole = run("held", "task.collect.runs=2", "task.collect.held_out=1"), run("whole", "task.collect.runs=3")
    assert torch.equal(held.vectors_KD, whole.vectors_KD[:2]) and len(held.rows.shards) == 2
    assert torch.equal(held.held_out_HD, whole.vectors_KD[2:]) and torch.equal(held.accuracy_K, whole.accuracy_K[:2])
    assert held.origin_K2.tolist() == [[0, 5], [1, 5]] and held.held_out_origin_H2.tolist() == [[2, 5]]
    assert whole.held_out_HD is None and held.optimizer_state is None
