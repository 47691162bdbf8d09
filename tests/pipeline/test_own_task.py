"""The user's own network, data and objective through both entry points, and overrides that contradict them."""

import sys

import pytest

from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.scores import ScoreTable
from tests.pipeline.conftest import Workplace, assert_names
from tests.test_documentation import OWN_TASK

OWN = ["trainer=cpu", "logger=none", "task=own", "task.score_with=my_task:task"]
TRAINING = [*OWN, "task.epochs=8", "task.optimizer.lr=3e-3", "task.param.k=6", "task.collect.held_out=2"]
FEW = [
    "system.autoencoder_steps=6", "system.diffusion_steps=6", "generation.num_models=4", "evaluation.num_baselines=2",
    "evaluation.num_finetuned=1", "evaluation.finetune_steps=[2]", "evaluation.deep_ensemble=2",
]  # fmt: skip
CHECKPOINTS, RUN = "param_data/own_network/checkpoints.safetensors", "outputs/own_network/ae_ddpm"


@pytest.fixture
def place(empty, monkeypatch):
    """Return a folder with the example of the page as my_task.py."""
    (empty.path / "my_task.py").write_text(OWN_TASK)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield empty
    sys.modules.pop("my_task", None)


def refuse(place: Workplace, script: str, *overrides: str) -> str:
    return place.refuse(script, *overrides, tiny=False)


def test_an_own_task_goes_through_the_whole_pipeline(place):
    assert place.run("task_training.py", *TRAINING, tiny=False).error == 0
    stored = CheckpointSet.load(place.path / CHECKPOINTS)
    every = tuple(f"{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias"))
    assert stored.subset.names == every and stored.settings["task"]["score_with"] == "my_task:task"
    assert place.run("train_p_diff.py", *TRAINING, *FEW, tiny=False).error == 0
    tables = {path.stem: ScoreTable.load(path) for path in (place.path / RUN / "scores").glob("*.npz")}
    assert {"original", "p_diff", "continued", "finetuned_2", "deep_ensemble"} <= tables.keys()
    assert tables["original"].scores["val"].accuracy_M == pytest.approx(stored.accuracy_K.numpy(), rel=1e-6)
    rows = {row["source"]: row for row in place.metrics(RUN)["table"]}
    test_M = tables["p_diff"].scores["test"].accuracy_M
    assert (rows["p_diff"]["accuracy_best"], rows["p_diff"]["accuracy_worst"]) == (test_M.min(), test_M.max())
    members_M = tables["deep_ensemble"].scores["test"].accuracy_M
    assert members_M[0] != members_M[1] and members_M.max() < 80, "two networks were trained from different weights"
    card = (place.path / RUN / "generated/README.md").read_text()
    assert "# my_task:task with weights" in card and "from my_task import task\n\nmodel, *_ = task()" in card
    assert_names(refuse(place, "task_training.py", *TRAINING, "task.epochs=9"), "task.epochs", 8, 9)


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["task=own"], ["task.score_with=my_task:task"]),
        (["task.score_with=my_task:task"], ["task.score_with=my_task:task", "task.data.dataset=digits", "task=own"]),
        ([*OWN, "task.data.image_size=9"], ["task.score_with=my_task:task", "task.data.image_size=9"]),
        ([*OWN, "task.model.name=resnet18"], ["task.score_with=my_task:task", "task.model.name=resnet18"]),
        ([*OWN[:3], "task.score_with=my_task:nothing"], ["task.score_with=my_task:nothing", "my_task"]),
    ],
)
def test_overrides_that_contradict_the_users_function_are_refused(place, overrides, told):
    assert_names(refuse(place, "task_training.py", *overrides), *told)
    assert not (place.path / "param_data").exists()
