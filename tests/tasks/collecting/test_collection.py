"""Collecting: what moves, what stays frozen, what a snapshot is, and what is recorded of it."""

import pytest
import torch
from hydra.utils import instantiate

from core.checkpoints.subset import resolve_subset
from core.runtime.errors import UserError
from tasks.collecting.classifier import Classifier
from tasks.collecting.collection import (
    check_collection,
    collect_vectors,
    machine_settings,
    recorded_settings,
    snapshot_interval,
)
from tests.tasks.tiny import independent_config, steps_config, task_config


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


def test_settings_that_do_not_change_the_checkpoints_are_not_recorded():
    here = recorded_settings(
        steps_config("task.data.root=/here", "task.data.verify=false", "task.param.k=9", "task.param.path=x").task
    )
    there = recorded_settings(steps_config("task.data.root=/there", "task.data.num_workers=3", "task.param.k=5").task)
    assert here == there
    assert recorded_settings(steps_config("task.epochs=1").task) != recorded_settings(
        steps_config("task.epochs=2").task
    )


def test_how_the_machine_changes_the_checkpoints_is_recorded():
    def settings(*overrides):
        cfg = task_config(*overrides)
        return machine_settings(cfg.trainer, cfg.scoring)

    default = settings()
    assert default == {"trainer": {"precision": "tf32", "devices": 1}, "scoring": {"precision": "fp32"}}
    assert settings("trainer=ddp", "trainer.accelerator=cpu")["trainer"]["devices"] == 1, "auto"
    for override in ("trainer.precision=32-true", "trainer.devices=2", "scoring.precision=tf32"):
        assert settings(override) != default
    assert settings("task.data.num_workers=3", "scoring.batch_size=8") == default


def test_a_precision_that_skips_steps_is_refused_for_collecting_by_steps():
    with pytest.raises(UserError, match="trainer.precision=16-mixed.*set trainer.precision=bf16-mixed"):
        check_collection(steps_config().task, "16-mixed")
    check_collection(steps_config().task, "bf16-mixed")


def test_a_default_task_records_how_it_collects():
    collect_settings = recorded_settings(task_config().task)["task"]["collect"]
    optimizer = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.03, "weight_decay": 5e-4}
    assert collect_settings == {"batch_size": 32, "every": 1, "optimizer": optimizer}


def test_as_many_checkpoints_as_networks():
    assert independent_config().task.param.k == 3
    assert independent_config("task.collect.runs=20").task.param.k == 20
    check_collection(independent_config("task.param.k=2").task, "16-mixed")
    with pytest.raises(UserError, match="task.param.k=4.*task.collect.runs=3.*at most 3"):
        check_collection(independent_config("task.param.k=4").task, "tf32")


def test_independent_settings_say_so_and_leave_the_number_of_networks_open():
    settings = recorded_settings(independent_config().task)
    assert settings["task"]["collect"] == "independent"
    assert settings == recorded_settings(independent_config("task.collect.runs=9").task)
    assert settings != recorded_settings(
        steps_config("task.param.subset=all", "task.model.name=test_resnet", "task.epochs=2", "task.batch_size=8").task
    )
