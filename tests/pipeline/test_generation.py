"""Generation of digits through both entry points, and a dataset that the network does not fit."""

import numpy as np
import pytest

from core.evaluation.scores import ScoreTable
from tasks.data import feature_networks
from tests.pipeline.conftest import assert_names
from tests.pipeline.test_whole_networks import FEW

TINY = [
    "experiment=digits_generation", "task.model.name=ddpm_unet_small", "+task.model.options.widths=[4,4]",
    "task.data.diffusion.sampling_steps=1", "task.warmup_steps=null", "output_dir=run",
    "task.param.path=checkpoints.safetensors", "task.param.k=4", "task.param.count=4",
]  # fmt: skip


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    monkeypatch.setattr("tasks.training.finetuning.MOMENT_STEPS", 2)
    monkeypatch.setitem(feature_networks.TRAINING, "steps", 5)


def test_digits_go_through_the_whole_pipeline(empty, capfd):
    assert empty.run("task_training.py", *TINY).error == 0
    assert empty.run("train_p_diff.py", *TINY, *FEW).error == 0
    captured = capfd.readouterr()
    assert "full forward passes" in captured.out + captured.err
    rows = {row["source"]: row for row in empty.metrics("run")["table"]}
    assert (rows["original"]["n"], rows["p_diff"]["n"], rows["finetuned_2"]["n"]) == (4, 2, 1) and "laplace" not in rows
    assert "max_iou_mean" not in rows["p_diff"] and empty.metrics("run")["metric"]["name"] == "FID"
    scores = ScoreTable.load(empty.path / "run/scores/p_diff.npz").scores["test"]
    assert scores.influence_MN.shape == (2, 597) and not scores.metric.higher_is_better
    np.testing.assert_allclose(scores.influence_MN.mean(axis=1), scores.accuracy_M, rtol=1e-4)
    card = (empty.path / "run/generated/README.md").read_text()
    assert "pipeline_tag: unconditional-image-generation\n" in card and "FID" in card
    assert "build_unet('ddpm_unet_small', channels=1, image_size=8, options={'widths': [4, 4]})" in card
    assert empty.run("train_p_diff.py", *TINY, *FEW, "mode=test").error == 0
    assert empty.run("train_p_diff.py", *TINY, *FEW, "mode=generate").error == 0
    few = empty.refuse("train_p_diff.py", *TINY, *FEW, "mode=test", "evaluation.num_train_images=32", "output_dir=run")
    assert_names(few, 32, 33, "evaluation.num_train_images")


def test_a_network_of_another_task_is_refused(empty):
    assert_names(
        empty.refuse("task_training.py", *TINY, "task.data.dataset=digits"),
        "ddpm_unet_small",
        "task.data.dataset=digits",
    )
