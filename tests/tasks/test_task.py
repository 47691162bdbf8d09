"""The stored classifier and its images: images that the checkpoints were not made with are refused."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import flatten, resolve_subset
from core.checkpoints.vector_rows import VectorRows
from core.runtime.errors import UserError
from core.runtime.settings import find_differences
from core.runtime.source_code import find_files
from tasks import task as task_module
from tasks.scoring.scorer import ScoringSpec
from tasks.task import Task, digest_scoring_code, record_scoring, require_images
from tasks.training.collect_checkpoints import record_images
from tests.tasks.archives import write_svhn
from tests.tasks.tiny import steps_config, task_spec

MODELS = ("resnet18", "resnet_mini")


def make_checkpoints(model, **provenance):
    subset = resolve_subset(model, "last_norms")
    return CheckpointSet(
        rows=VectorRows([flatten(model, subset)[None].repeat(2, 1)]),
        accuracy_K=torch.zeros(2),
        subset=subset,
        network=model.state_dict(),
        settings={},
        provenance=provenance,
        path="made.safetensors",
    )


def test_a_restored_task_has_the_stored_network_in_eval_mode(model, data, monkeypatch):
    monkeypatch.setattr(task_module, "open_network_and_images", lambda spec: (model.train(), data))
    restored = Task.restore(task_spec(steps_config()), ScoringSpec(), make_checkpoints(model, **record_images(data)))
    assert not restored.model.training and restored.data is data


def test_scorers_get_the_groups_of_their_split_and_a_sample_gets_none(model, data, monkeypatch):
    made = {}
    monkeypatch.setattr(
        task_module,
        "Scorer",
        lambda model, subset, images, **options: made.setdefault(options["label"], (images, options)),
    )
    groups = {name: np.repeat(np.arange(20), 2) for name in ("train", "test")}
    task = Task(
        replace(data, groups=groups, ood={"splices": data.val}),
        model,
        resolve_subset(model, "last_norms"),
        ScoringSpec(),
    )
    assert set(task.score_fns(num_train_images=4)) == {"train", "val", "test"}
    assert {label: options["groups_N"] for label, (_, options) in made.items()} == {
        "train images": None,
        "val images": None,
        "test images": groups["test"],
    }
    assert set(task.ood_fns()) == {"splices"} and made["splices images"][0] is data.val


def test_a_restored_task_has_the_images_of_other_datasets(model, data, tmp_path, monkeypatch):
    write_svhn(tmp_path)
    data = replace(data, colors=((0.5,) * 3, (0.5,) * 3))
    monkeypatch.setattr(task_module, "open_network_and_images", lambda spec: (model, data))
    spec = task_spec(steps_config(f"task.data.root={tmp_path}", "task.data.verify=false"))
    restored = Task.restore(spec, ScoringSpec(), make_checkpoints(model, **record_images(data)), ood=["svhn"])
    assert [len(images) for images in restored.data.ood.values()] == [20]


def test_units_are_matched_for_networks_of_one_tensor_and_the_log_says_where_they_are_not(model, data, caplog):
    subset = resolve_subset(model, "all")
    assert Task(data, model, subset, ScoringSpec()).find_symmetry().groups
    assert not [record for record in caplog.records if record.name.startswith("tasks")]
    lists = replace(data, collate=lambda items: ([image for image, _ in items], None))
    assert Task(lists, model, subset, ScoringSpec()).find_symmetry().groups == ()
    assert "Hidden units are not matched" in caplog.text and "takes a list" in caplog.text


def test_files_of_earlier_versions_are_compared_by_their_fingerprint(data):
    spec, model = task_spec(steps_config()), torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3))
    require_images(spec, data, make_checkpoints(model, data_fingerprint=data.fingerprint()))
    with pytest.raises(UserError, match="the train, val, test images of digits"):
        require_images(spec, data, make_checkpoints(model, data_fingerprint="another"))


def test_equal_files_that_are_distorted_in_another_way_are_other_images(data):
    spec, model = task_spec(steps_config()), torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3))
    stored = record_images(data) | {"data_fingerprint": "of another distortion"}
    require_images(spec, data, make_checkpoints(model, **record_images(data)))
    with pytest.raises(UserError, match="the val and test images of digits"):
        require_images(spec, data, make_checkpoints(model, **stored))


@pytest.mark.parametrize("dataset, score_with, told", [
    ("mnist", None, r"the val images of mnist in task\.data\.root=data .*made\.safetensors.* Set task\.data\.root"),
    ("digits", None, r"the val images of digits .*made\.safetensors.*100 digits.* Set task\.param\.path=FILE"),
    ("digits", "my_code:task", r"val images that task\.score_with=my_code:task .*made\.safetensors.* Set task\.score"),
])  # fmt: skip
def test_other_images_are_refused_with_the_split_and_the_option_to_set(
    model, data, monkeypatch, dataset, score_with, told
):
    images_NCSS, labels_N = data.val.tensors
    edited = images_NCSS.clone()
    edited[21, 1, 4, 4] += 1  # the fingerprint of earlier versions looked at the first 8 images only
    other = replace(data, val=TensorDataset(edited, labels_N))
    assert other.fingerprint() == data.fingerprint()
    monkeypatch.setattr(task_module, "open_network_and_images", lambda spec: (model, other))
    spec = replace(task_spec(steps_config(f"task.data.dataset={dataset}")), score_with=score_with)
    with pytest.raises(UserError, match=told):
        Task.restore(spec, ScoringSpec(), make_checkpoints(model, **record_images(data)))


def test_the_recorded_settings_of_scoring_follow_the_images_the_network_and_the_precision(data):
    def record(*overrides, precision="fp32", data=data):
        return record_scoring(task_spec(steps_config(*overrides)), data, precision)

    before = record("task.data.root=elsewhere", "task.collect.optimizer.lr=0.5", "task.param.path=other")
    assert record() == before and before["images"] == data.digests
    for after, name in [
        (record(precision="tf32"), "precision"),
        (record("task.data.image_size=20"), "task.data.image_size"),
        (record("task.model.name=resnet34"), "task.model.name"),
        (record(data=replace(data, colors=((0.5,) * 3, (0.2,) * 3))), "preparation.colors"),
        (record(data=replace(data, groups={"test": np.arange(40)})), "groups.test"),
        (record(data=replace(data, ood={"splices": data.val})), "ood.splices"),
    ]:
        assert list(find_differences(before, after)) == [name]


def test_the_code_that_scores_covers_the_network_and_all_files_of_images():
    mini = "tasks/networks/mini_networks.py:resnet_mini"
    plain, own = (set(digest_scoring_code(task_spec(steps_config(f"task.model.name={n}")))) for n in MODELS)
    assert own - plain == {mini} and "tasks/networks/build.py:build_classifier" in plain
    assert {"tasks/scoring/scorer.py", "tasks/scoring/frozen_prefix.py"} < plain
    files = {name for name in find_files(["tasks/data/*.py"]) if not name.endswith("__init__.py")}
    # The settings hold the facts of a dataset, and a digest of images prepares no image.
    assert files - plain == {"tasks/data/datasets.py", "tasks/data/digests.py"}


def test_the_users_own_module_decides_whether_scores_are_reused(tmp_path, monkeypatch):
    (tmp_path / "users_net.py").write_text("def net():  # mine\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    importlib.import_module("users_net")
    specs = [replace(task_spec(steps_config()), score_with="users_net:net")]
    specs.append(task_spec(steps_config("task.model.name=users_net:net")))
    name = "the module users_net"
    before = [digest_scoring_code(spec)[name] for spec in specs]
    (tmp_path / "users_net.py").write_text("def net():\n    return 1\n")
    assert [digest_scoring_code(spec)[name] for spec in specs] == before
    (tmp_path / "users_net.py").write_text("def net():\n    return 2\n")
    assert not {digest_scoring_code(spec)[name] for spec in specs} & set(before)
    sys.modules.pop("users_net")
