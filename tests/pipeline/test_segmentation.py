"""Segmentation through both entry points: scenes of digits, scenes of several sizes, and mistakes in the data."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.evaluation.scores import ScoreTable
from tasks.data import digit_scenes
from tasks.data.splits import DataOptions
from tasks.networks.segmenters import build_segmenter
from tasks.objectives.segmentation import MEAN_IOU, PIXELS_PER_IMAGE
from tests.pipeline.conftest import assert_names
from tests.pipeline.test_whole_networks import FEW
from tests.tasks.archives import write_voc

CHANNELS = [4, 4, 8, 8]
TINY = [
    "experiment=digits_segmentation", "task.model.name=fcn_small", f"+task.model.options.channels={CHANNELS}",
    "task.batch_size=4", "output_dir=run", "task.param.path=checkpoints.safetensors", "task.param.k=4",
]  # fmt: skip
NUM_IMAGES = {"train": 16, "val": 6, "test": 8}
MASKS = "VOCdevkit/VOC2012/SegmentationClass"


@pytest.fixture
def few_scenes(monkeypatch):
    monkeypatch.setattr(digit_scenes, "NUM_IMAGES", NUM_IMAGES)
    monkeypatch.setattr("tasks.training.finetuning.MOMENT_STEPS", 2)


@pytest.fixture
def voc(empty):
    """Return a folder with files of VOC, whose images differ in size."""
    write_voc(empty.path / "data")
    return empty


def test_scenes_go_through_the_whole_pipeline(empty, few_scenes, capfd):
    assert empty.run("task_training.py", *TINY).error == 0
    assert empty.run("train_p_diff.py", *TINY, *FEW).error == 0
    assert_split(capfd.readouterr())
    metrics = empty.metrics("run")
    rows = {row["source"]: row for row in metrics["table"]}
    assert (rows["original"]["n"], rows["p_diff"]["n"], rows["finetuned_2"]["n"]) == (4, 2, 1) and "laplace" not in rows
    for row in rows.values():
        assert 0 < row["accuracy_worst"] <= row["accuracy_best"] < 0.5 and 0 < row["max_iou_mean"] <= 1
    table = ScoreTable.load(empty.path / "run/scores/p_diff.npz")
    assert table.scores["test"].metric == MEAN_IOU
    assert table.scores["test"].wrong_MN.shape == (2, NUM_IMAGES["test"] * PIXELS_PER_IMAGE)
    card = (empty.path / "run/generated/README.md").read_text()
    assert "pipeline_tag: image-segmentation\n" in card and "image-classification" not in card
    assert f"build_segmenter('fcn_small', num_classes=11, channels=3, options={{'channels': {CHANNELS}}})" in card

    scores = empty.path / "run/scores"
    before = {path.name: path.stat().st_mtime_ns for path in scores.iterdir()}
    assert empty.run("task_training.py", *TINY).error == 0
    assert empty.run("train_p_diff.py", *TINY, *FEW, "evaluation.deep_ensemble=2").error == 0
    after = {path.name: path.stat().st_mtime_ns for path in scores.iterdir()}
    assert after.keys() - before.keys() == {"deep_ensemble.npz"} and {name: after[name] for name in before} == before
    assert_recorded_is_reproduced(CheckpointSet.load(empty.path / "checkpoints.safetensors"))


def assert_split(captured):
    """Check that no log line says that the network could not be split at its generated parameters."""
    logged = captured.out + captured.err
    assert "output of the frozen layers" in logged and "cannot be split" not in logged


def assert_recorded_is_reproduced(checkpoints):
    """Check that the mean IoU of each checkpoint is that of a new network into which it is copied."""
    data = digit_scenes.load_segmentation(DataOptions("digit_scenes_segmentation", root="data"))
    images, masks = (torch.stack([item[part] for item in data.val]) for part in (0, 1))
    model = build_segmenter("fcn_small", num_classes=11, channels=3, options={"channels": CHANNELS}).eval()
    counter = data.objective.count_scores(len(checkpoints), torch.device("cpu"))
    logits = []
    for vector_D in checkpoints.vectors_KD:
        model.load_state_dict({**checkpoints.network, **unflatten(vector_D, checkpoints.subset)})
        with torch.no_grad():
            logits.append(model(data.make_normalizer()(images)))
    counter.add([(slice(0, len(logits)), torch.stack(logits))], masks)
    np.testing.assert_allclose(counter.finish().accuracy_M, checkpoints.accuracy_K, rtol=1e-5)


VOC = ["task.data.dataset=voc_segmentation", "task.data.image_size=32"]


def test_the_name_of_another_dataset_is_enough_and_images_may_differ_in_size(voc, few_scenes, capfd):
    assert voc.run("task_training.py", *TINY, *VOC).error == 0
    assert_split(capfd.readouterr())
    checkpoints = CheckpointSet.load(voc.path / "checkpoints.safetensors")
    assert checkpoints.network["classifier.4.weight"].shape[0] == 21
    assert checkpoints.provenance["facts"] == {"num_classes": 21, "channels": 3, "image_size": 32}


@pytest.mark.parametrize(
    "pixels, told",
    [(np.zeros((9, 7), dtype=np.uint8), ["7×9", "size"]), (np.full((31, 41), 77, dtype=np.uint8), ["class 77", 20])],
)
def test_a_wrong_mask_is_named(voc, pixels, told):
    path = voc.path / f"data/{MASKS}/2007_000001.png"
    Image.fromarray(pixels).save(path)
    assert_names(voc.refuse("task_training.py", *TINY, *VOC), path.name, *told)


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["task.model.name=fcn_small", "task.data.dataset=digits"], ["fcn_small", "task.data.dataset=digits"]),
        (["task.model.name=resnet18", *VOC], ["task.model.name=resnet18", "voc_segmentation", "fcn_small"]),
    ],
)
def test_a_network_and_a_dataset_for_different_tasks_are_refused(voc, overrides, told):
    assert_names(voc.refuse("task_training.py", *overrides), *told)
    assert not (voc.path / "param_data").exists()
