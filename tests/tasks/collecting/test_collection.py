"""Collecting: which parameters move, which stay frozen, when a snapshot is taken, and what is recorded."""

from itertools import count

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from core.checkpoints.subset import resolve_subset
from core.runtime.errors import UserError
from core.runtime.settings import find_differences
from core.runtime.trainer import count_devices
from tasks.collecting.collection import TrainedNetworks
from tasks.collecting.independent import IndependentCollection
from tasks.collecting.network_training import NetworkTraining
from tasks.collecting.steps import StepsCollection, choose_interval
from tasks.specification import TaskSpec, choose_collection
from tasks.training.collect_checkpoints import record_machine
from tests.tasks.tiny import independent_config, steps_config, task_config, task_spec


@pytest.fixture
def collect(data, tmp_path):
    """Return a function that collects by steps in a folder of its own at each call."""
    folders = count()

    def run(cfg, model, subset):
        return collect_vectors(cfg, TrainedNetworks(model, subset), data, tmp_path / f"state_{next(folders)}")

    return run


def collect_vectors(cfg, trained, data, state_dir, *stops):
    task, configured = task_spec(cfg), instantiate(cfg.trainer)

    def make_trainer(*, callbacks, **options):
        return configured(callbacks=[*stops, *callbacks], **options)

    return task.collect.collect_vectors(
        trained,
        data,
        k=task.param.k,
        seed=task.seed,
        num_workers=task.data.num_workers,
        state_dir=state_dir,
        make_trainer=make_trainer,
    )


def check(cfg, precision):
    task = task_spec(cfg)
    task.collect.check(task.param.k, precision)


def recorded(cfg):
    return task_spec(cfg).record()


def test_one_snapshot_per_optimizer_step_across_epochs(model, collect):
    cfg = steps_config()  # 40 images in batches of 8: the 7 steps need a second epoch
    subset = resolve_subset(model, "last_norms")
    vectors_KD = collect(cfg, model, subset).rows.to_tensor()
    assert vectors_KD.shape == (7, subset.num_params)
    assert len(torch.unique(vectors_KD, dim=0)) == 7
    steps = (vectors_KD[1:] - vectors_KD[:-1]).abs().amax(dim=1)
    # AdamW's first steps move each coordinate by about the learning rate.
    assert ((steps > 0.3 * cfg.task.collect.optimizer.lr) & (steps < 3 * cfg.task.collect.optimizer.lr)).all()


def test_fewer_checkpoints_are_the_first_ones_of_more(model, collect):
    subset = resolve_subset(model, "last_norms")
    few, more = (collect(steps_config(f"task.param.k={k}"), model, subset).rows.to_tensor() for k in (3, 7))
    assert torch.equal(few, more[:3])


@pytest.mark.parametrize("every, rows", [(2, [1, 3, 5]), (3, [2, 5, 8]), ("spread", [0, 1, 2])])
def test_steps_between_checkpoints_are_skipped(model, collect, every, rows):
    subset = resolve_subset(model, "last_norms")
    all_KD = collect(steps_config("task.param.k=9"), model, subset).rows.to_tensor()
    some_KD = collect(steps_config("task.param.k=3", f"task.collect.every={every}"), model, subset).rows.to_tensor()
    assert torch.equal(some_KD, all_KD[rows])


@pytest.mark.parametrize("every, k, steps_per_epoch, interval", [
    (1, 7, 5, 1), (3, 7, 5, 3), ("spread", 5, 5, 1), ("spread", 5, 9, 1), ("spread", 5, 10, 2),
    ("spread", 300, 10_009, 33), ("spread", 20, 5, 1),
])  # fmt: skip
def test_spread_checkpoints_fill_one_epoch(every, k, steps_per_epoch, interval):
    assert choose_interval(every, k, steps_per_epoch) == interval


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "often", None])
def test_an_invalid_interval_is_refused(every):
    with pytest.raises(UserError, match=rf"task\.collect\.every={every} must be a whole number.*every=spread"):
        choose_interval(every, 5, 5)


def test_collecting_leaves_the_network_as_it_was(model, collect):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    collect(steps_config(), model, resolve_subset(model, "last_norms"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_only_the_subset_moves_and_statistics_stay(model, collect, monkeypatch):
    seen = {}
    original = NetworkTraining.configure_optimizers

    def remember(self):
        seen["module"] = self
        return original(self)

    monkeypatch.setattr(NetworkTraining, "configure_optimizers", remember)
    subset = resolve_subset(model, "last_norms")
    collect(steps_config(), model, subset)
    after, before = seen["module"].model.state_dict(), model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(subset.names)


def test_statistics_move_when_they_are_part_of_the_subset(model, collect):
    subset = resolve_subset(model, ["layer4.0.bn2.*"])
    assert "layer4.0.bn2.running_mean" in subset.names
    vectors_KD = collect(steps_config(), model, subset).rows.to_tensor()
    columns = slice(*torch.tensor([0, *subset.sizes]).cumsum(0)[[2, 3]].tolist())
    assert subset.names[2] == "layer4.0.bn2.running_mean"
    assert not torch.equal(vectors_KD[0, columns], vectors_KD[-1, columns])


def test_settings_that_do_not_change_the_checkpoints_are_not_recorded():
    here = recorded(
        steps_config("task.data.root=/here", "task.data.verify=false", "task.param.k=9", "task.param.path=x")
    )
    there = recorded(steps_config("task.data.root=/there", "task.data.num_workers=3", "task.param.k=5"))
    assert here == there
    assert recorded(steps_config("task.epochs=1")) != recorded(steps_config("task.epochs=2"))


def test_settings_of_the_machine_that_change_the_checkpoints_are_recorded():
    def settings(*overrides):
        cfg = task_config(*overrides)
        return record_machine(
            training_precision=cfg.trainer.precision,
            num_devices=count_devices(cfg.trainer.devices, cfg.trainer.accelerator),
            scoring_precision=cfg.scoring.precision,
        )

    default = settings()
    assert default == {"trainer": {"precision": "tf32", "devices": 1}, "scoring": {"precision": "fp32"}}
    assert settings("trainer=ddp", "trainer.accelerator=cpu")["trainer"]["devices"] == 1, "auto"
    for override in ("trainer.precision=32-true", "trainer.devices=2", "scoring.precision=tf32"):
        assert settings(override) != default
    assert settings("task.data.num_workers=3", "scoring.batch_size=8") == default


def test_a_precision_that_skips_steps_is_refused_for_collecting_by_steps():
    with pytest.raises(UserError, match=r"trainer\.precision=16-mixed.*trainer\.precision=bf16-mixed"):
        check(steps_config(), "16-mixed")
    check(steps_config(), "bf16-mixed")


def test_a_default_task_records_how_it_collects():
    collect_settings = recorded(task_config())["task"]["collect"]
    optimizer = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.03, "weight_decay": 5e-4}
    assert collect_settings == {"batch_size": 32, "every": 1, "optimizer": optimizer}


def test_each_network_gives_one_checkpoint():
    assert independent_config().task.param.k == 3
    assert independent_config("task.collect.runs=20").task.param.k == 20
    check(independent_config("task.param.k=2"), "16-mixed")
    with pytest.raises(UserError, match=r"task\.param\.k=4 .*task\.collect\.runs=3.*task\.collect\.runs=4"):
        check(independent_config("task.param.k=4"), "tf32")


def test_independent_settings_are_recorded_without_the_number_of_networks():
    settings = recorded(independent_config())
    assert settings["task"]["collect"] == "independent"
    assert settings == recorded(independent_config("task.collect.runs=9"))
    assert settings != recorded(
        steps_config("task.param.subset=all", "task.model.name=test_resnet", "task.epochs=2", "task.batch_size=8")
    )


def test_the_configuration_chooses_the_way_to_collect():
    assert isinstance(task_spec(steps_config()).collect, StepsCollection)
    assert task_spec(independent_config("+task.collect.optimizer.lr=0.1")).collect == IndependentCollection(runs=3)
    with pytest.raises(UserError, match=r"task\.collect\.kind=stepps.*steps, independent"):
        choose_collection({"kind": "stepps"})


@pytest.mark.parametrize("overrides", [(), ("task.data.mean=[0.5]", "task.data.std=[0.25]", "task.scheduler=null")])
def test_a_specification_returns_the_configuration_that_it_was_built_from(overrides):
    cfg = steps_config(*overrides)
    expected = OmegaConf.to_container(cfg.task, resolve=True)
    # What does not apply is left out, as in files of earlier versions, and the default subset gets its name.
    assert expected["data"].pop("diffusion") == {} and expected["model"].pop("lora")["rank"] is None
    assert expected["param"].pop("subset") is None
    found = task_spec(cfg).to_config()
    assert found["param"].pop("subset") == "last_norms" and found["model"].pop("lora") is None
    assert found == expected
    independent = task_spec(independent_config())
    assert TaskSpec.from_config(independent.to_config()) == independent


def test_warm_up_and_the_limit_of_gradients_are_recorded_and_absent_from_older_files():
    plain, chosen = recorded(steps_config()), recorded(steps_config("task.warmup_steps=9", "task.gradient_clip=0.5"))
    older = {
        "task": {name: value for name, value in plain["task"].items() if name not in ("warmup_steps", "gradient_clip")}
    }
    assert not find_differences(older, plain) and not find_differences(plain, older)
    assert find_differences(older, chosen) == {
        "task.warmup_steps": ("(absent)", 9),
        "task.gradient_clip": ("(absent)", 0.5),
    }
    without = {
        name: value
        for name, value in task_spec(steps_config()).to_config().items()
        if name in older["task"] or name == "score_with"
    }
    assert TaskSpec.from_config(without) == task_spec(steps_config())


def test_the_last_optimization_is_the_one_that_made_the_checkpoints():
    cfg = steps_config("task.collect.optimizer.lr=0.25", "task.optimizer.lr=0.5", "task.batch_size=9")
    by_steps = task_spec(cfg).last_optimization
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert by_steps.batch_size == 8 and by_steps.make_optimizer([parameter]).defaults["lr"] == 0.25
    independent = task_spec(independent_config("task.optimizer.lr=0.5")).last_optimization
    assert independent.batch_size == 8 and independent.make_optimizer([parameter]).defaults["lr"] == 0.5
