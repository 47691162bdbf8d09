"""Runs with imported checkpoints: the file decides the network, and only the command line names code."""

from dataclasses import replace

import pytest
import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.runtime.errors import UserError
from tasks.importing.adopt import adopt_imported, write_overrides
from tests.tasks.tiny import steps_config, task_spec

RECIPE = {"name": "test_resnet", "pretrained": False, "small_stem": None, "options": {}}


@pytest.fixture
def task():
    return task_spec(steps_config())


def imported(task, **changes):
    """Return checkpoints whose record of the import has some values changed."""
    recorded = task.record()["task"]
    record = {"model": RECIPE, "score_with": None, "data": recorded["data"], "param": recorded["param"], **changes}
    return CheckpointSet(
        rows=VectorRows([torch.zeros(2, 4)]),
        accuracy_K=torch.zeros(2),
        subset=ParameterSubset(names=("fc.bias",), shapes=((4,),)),
        network={},
        settings={"imported": record},
        path="imported.safetensors",
    )


def test_network_and_subset_come_from_the_file(task):
    checkpoints = imported(task, param={"subset": "all", "count": 3})
    adopted = adopt_imported(task, checkpoints, ["task.param.k=2"])
    assert (adopted.model.name, adopted.param.subset, adopted.param.count) == ("test_resnet", "all", 3)
    assert adopted.data == task.data


@pytest.mark.parametrize("changes", [{"param": {}}, {"model": None}])
def test_a_damaged_record_is_refused(task, changes):
    with pytest.raises(UserError, match=r"imported\.safetensors has no valid record.*scripts\.import_checkpoints"):
        adopt_imported(task, imported(task, **changes), [])


def test_code_in_the_file_only_runs_if_the_command_line_names_it(task):
    checkpoints = imported(task, score_with="my_code:task")
    with pytest.raises(UserError, match=r"imported\.safetensors.*Set task\.score_with=my_code:task"):
        adopt_imported(task, checkpoints, [])
    own = replace(task, score_with="my:own")
    assert adopt_imported(own, checkpoints, ["task.data.num_workers=0"]).data.dataset == "my:own"
    with pytest.raises(
        UserError, match=r"task\.score_with=my:own returns .* so task\.data\.dataset=svhn would have no eff"
    ):
        adopt_imported(own, checkpoints, ["task.data.dataset=svhn"])

    checkpoints = imported(task, model={**RECIPE, "name": "my_code:Net"})
    with pytest.raises(UserError, match=r"imported\.safetensors.*Set task\.model\.name=my_code:Net"):
        adopt_imported(task, checkpoints, [])
    named = replace(task, model=replace(task.model, name="my:Net"))
    assert adopt_imported(named, checkpoints, ["task.model.name=my:Net"]).model.name == "my:Net"


def test_an_override_that_contradicts_the_file_is_refused(task):
    other = replace(task, model=replace(task.model, name="resnet18"))
    with pytest.raises(UserError, match=r"imported\.safetensors.*task\.model\.name=test_resnet.*resnet18.*Remove"):
        adopt_imported(other, imported(task), ["task.model.name=resnet18"])


def test_other_images_are_refused_with_the_overrides_to_set(task):
    data = {**task.record()["task"]["data"], "mean": [0.5, 0.25], "val_fraction": None}
    with pytest.raises(UserError, match=r"Set .*task\.data\.mean=\[0\.5,0\.25\]") as error:
        adopt_imported(task, imported(task, data=data), [])
    assert "task.data.val_fraction=null" in str(error.value)


def test_overrides_restore_the_stored_values():
    differing = {
        "task.data.dataset": ("digits", "mnist"),
        "task.data.std": (None, [0.5]),
        "task.data.x": ("(absent)", 1),
    }
    assert write_overrides(differing) == "task.data.dataset=digits task.data.std=null task.data.x=null"
