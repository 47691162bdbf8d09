"""The stored classifier and its images: images that the checkpoints were not made with are refused."""

from dataclasses import replace

import pytest
import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import flatten, resolve_subset
from core.checkpoints.vector_rows import VectorRows
from core.runtime.errors import UserError
from tasks import task as task_module
from tasks.scoring.scorer import ScoringSpec
from tasks.task import Task
from tests.tasks.tiny import steps_config, task_spec


def make_checkpoints(model, fingerprint):
    subset = resolve_subset(model, "last_norms")
    return CheckpointSet(
        rows=VectorRows([flatten(model, subset)[None].repeat(2, 1)]),
        accuracy_K=torch.zeros(2),
        subset=subset,
        network=model.state_dict(),
        settings={},
        provenance={"data_fingerprint": fingerprint},
        path="made.safetensors",
    )


def test_a_restored_task_has_the_stored_network_in_eval_mode(model, data, monkeypatch):
    monkeypatch.setattr(task_module, "open_network_and_images", lambda spec: (model.train(), data))
    restored = Task.restore(task_spec(steps_config()), ScoringSpec(), make_checkpoints(model, data.fingerprint()))
    assert not restored.model.training and restored.data is data
    assert set(restored.score_fns(num_train_images=4)) == {"train", "val", "test"}


@pytest.mark.parametrize("score_with, told", [
    (None, r"task\.data\.root=data .*made\.safetensors.* Set task\.data\.root"),
    ("my_code:task", r"task\.score_with=my_code:task .*made\.safetensors.* Set task\.score_with"),
])  # fmt: skip
def test_other_images_are_refused_with_the_option_to_set(model, data, monkeypatch, score_with, told):
    monkeypatch.setattr(task_module, "open_network_and_images", lambda spec: (model, data))
    spec = replace(task_spec(steps_config()), score_with=score_with)
    with pytest.raises(UserError, match=told):
        Task.restore(spec, ScoringSpec(), make_checkpoints(model, "another fingerprint"))
