"""Detection through the real entry points: from scenes of digits, and from bad annotation files, to a report."""

import json

import numpy as np
import pytest
import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.scores import ScoreTable
from tasks.data import digit_scenes
from tests.pipeline.conftest import assert_names

pytest.importorskip("pycocotools")
CHECKPOINTS, RUN = "param_data/digit_scenes_detection_fcos_small/checkpoints.safetensors", "outputs/detection"
SMALL = [
    "task=digits_detection", "task.model.name=fcos_small", "output_dir=outputs/detection", "task.epochs=2",
    "task.batch_size=8", "task.warmup_steps=null", "task.collect.batch_size=4", "task.param.k=4",
    "task.collect.held_out=2", "+task.model.options={channels: [8,8,16,16], pyramid_channels: 32, head_layers: 2}",
]  # fmt: skip
FEW = [
    "generation.num_models=3", "evaluation.num_baselines=1", "evaluation.noise=[0.15]", "evaluation.num_finetuned=1",
    "evaluation.finetune_steps=[2]", "evaluation.num_train_images=6", "evaluation.num_trajectories=1",
    "evaluation.soup_candidates=2", "system.sampler.num_steps=2",
]  # fmt: skip


@pytest.fixture
def few_scenes(monkeypatch):
    monkeypatch.setattr(digit_scenes, "NUM_IMAGES", {"train": 40, "val": 10, "test": 10})


def test_detectors_are_generated_from_nothing_to_a_report(empty, few_scenes):
    assert empty.run("task_training.py", *SMALL).error == 0
    assert empty.run("train_p_diff.py", *SMALL, *FEW).error == 0
    checkpoints = CheckpointSet.load(empty.path / CHECKPOINTS)
    assert checkpoints.subset.num_params == 4 * 32 and len(torch.unique(checkpoints.vectors_KD, dim=0)) == 4
    metrics = empty.metrics(RUN)
    rows = {row["source"]: row["n"] for row in metrics["table"]}
    assert rows["original"] == 4 and rows["p_diff"] == 3 and rows["finetuned_2"] == 1 and "laplace" not in rows
    scores = ScoreTable.load(empty.path / RUN / "scores/p_diff.npz").scores["test"]
    assert scores.metric.name == "AP" and (scores.accuracy_M >= 0).all() and (scores.accuracy_M <= 1).all()
    assert scores.wrong_MN.shape == (3, 10 * 10 + 20) and scores.groups_N.max() == 9
    np.testing.assert_allclose(scores.influence_MN.mean(axis=1), scores.accuracy_M, atol=1e-5)
    # The recorded values are those of the stored network with a stored vector.
    again = ScoreTable.load(empty.path / RUN / "scores/original.npz").scores["val"].accuracy_M
    np.testing.assert_allclose(again, checkpoints.accuracy_K.numpy(), atol=1e-6)
    assert (empty.path / RUN / "report/index.html").is_file()
    card = (empty.path / RUN / "generated/README.md").read_text()
    assert "pipeline_tag: object-detection\n" in card and "image-classification" not in card
    assert "build_detector('fcos_small', num_classes=11, image_size=64" in card


def test_a_bad_annotation_file_is_one_line(empty, tmp_path):
    scene = {"images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 64}], "annotations": []}
    for name in ("train2017", "val2017"):
        (tmp_path / name).mkdir()
    path = tmp_path / "annotations/instances_train2017.json"
    path.parent.mkdir()
    for content in ({**scene, "categories": [{"id": 1, "name": "one"}]}, None):
        path.write_text(json.dumps(content) if content else "")
        arguments = ["task=coco_fcos", f"task.data.root={tmp_path}", "task.model.name=fcos_resnet50_fpn"]
        error = empty.refuse("task_training.py", *arguments)
        assert_names(error, "instances_train2017.json", "task.data.root=FOLDER")
