"""Tests with every parameter generated: mini networks, BatchNorm statistics, checkpoints of independent trainings."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.evaluation.scores import ScoreTable
from tests.digits import normalized_digits
from tests.pipeline.conftest import Workplace, assert_names

pytestmark = pytest.mark.usefixtures("few_digits")

MINI = ["convnet_mini", "mlp_mini", "resnet_mini", "vit_mini", "convnext_mini", "cnn_medium"]
WHOLE = [
    "task.batch_size=16",
    "task.param.subset=all",
    "task.collect.optimizer.lr=1e-3",
    "output_dir=run",
    "task.param.path=checkpoints.safetensors",
]
FEW = [
    "task.param.k=4", "generation.num_models=2", "evaluation.num_baselines=1", "evaluation.noise=[0.15]",
    "evaluation.num_finetuned=1", "evaluation.finetune_steps=[2]",
    "evaluation.num_train_images=60", "evaluation.num_trajectories=1", "evaluation.soup_candidates=2",
    "system.sampler.num_steps=2",
]  # fmt: skip


def run_both(place: Workplace, *overrides: str) -> CheckpointSet:
    """Run both commands and return the checkpoints."""
    assert place.run("task_training.py", *WHOLE, *overrides).error == 0
    assert place.run("train_p_diff.py", *WHOLE, *FEW, *overrides).error == 0
    return CheckpointSet.load(place.path / "checkpoints.safetensors")


def recorded_is_reproduced(checkpoints: CheckpointSet, name: str, row: int, **options: int | list[int]) -> bool:
    """Return whether a vector, copied into a new network of this name, has the accuracy recorded in its file."""
    images, labels = normalized_digits(checkpoints.provenance["accuracy_split"])
    model = timm.create_model(name, num_classes=10, in_chans=1, **options).eval()
    model.load_state_dict(unflatten(checkpoints.vectors_KD[row], checkpoints.subset), strict=False)
    with torch.no_grad():
        return (model(images).argmax(1) == labels).double().mean().item() == checkpoints.accuracy_K[row].item()


@pytest.mark.parametrize("name", MINI)
def test_a_mini_network_is_generated_whole(empty, name):
    checkpoints = run_both(empty, f"task.model={name}", f"task.model.name={name}", "evaluation.num_finetuned=0")
    assert checkpoints.subset.num_params == sum(tensor.numel() for tensor in checkpoints.network.values())
    assert len(torch.unique(checkpoints.vectors_KD, dim=0)) == 6
    assert recorded_is_reproduced(checkpoints, name, row=4, img_size=16)
    assert [row["n"] for row in empty.metrics("run")["table"]][:3] == [4, 1, 2]
    timm.create_model(name, in_chans=1, img_size=16).load_state_dict(
        load_file(empty.path / "run/generated/000.safetensors")
    )


def test_batch_norm_statistics_are_generated_and_variances_stay_positive(empty):
    channels = [4, 4, 8, 8]
    checkpoints = run_both(empty, f"+task.model.options.channels={channels}".replace(" ", ""))
    assert recorded_is_reproduced(checkpoints, "test_resnet", row=5, channels=channels)
    variances_D = checkpoints.subset.variances_D.numpy()
    assert variances_D.any() and len(torch.unique(checkpoints.vectors_KD[:, variances_D], dim=0)) == 6, (
        "all checkpoints have the same BatchNorm statistics"
    )
    for path in sorted((empty.path / "run/scores").glob("*.npz")):
        table = ScoreTable.load(path)
        assert (table.vectors_MD[:, variances_D] >= 0).all(), path.stem
        assert all(np.isfinite(scores.loss_M).all() for scores in table.scores.values()), path.stem
    state = load_file(empty.path / "run/generated/000.safetensors")
    assert all((tensor > 0).all() for name, tensor in state.items() if name.endswith("running_var"))


def test_independent_networks_are_checkpoints(empty):
    independent = [
        "task.collect=independent",
        "task.collect.runs=4",
        "task.model=convnet_mini",
        "task.model.name=convnet_mini",
    ]
    shared = [override for override in WHOLE if not override.startswith("task.collect")]
    k = "task.param.k=4"
    assert empty.run("task_training.py", *shared, *independent, k).error == 0
    checkpoints = CheckpointSet.load(empty.path / "checkpoints.safetensors")
    assert checkpoints.vectors_KD.shape == (4, 6966) and len(torch.unique(checkpoints.vectors_KD, dim=0)) == 4
    assert all(recorded_is_reproduced(checkpoints, "convnet_mini", row, img_size=16) for row in range(4))
    assert not list(empty.path.glob("training_state*"))
    assert empty.run("train_p_diff.py", *shared, *FEW, *independent, k).error == 0
    assert empty.metrics("run")["table"][0]["n"] == 4 and "finetuned_2" in {
        row["source"] for row in empty.metrics("run")["table"]
    }

    fewer = empty.run("train_p_diff.py", *shared, *FEW, *independent, "task.param.k=3", "output_dir=fewer").error
    assert fewer == 0 and empty.metrics("fewer")["table"][0]["n"] == 3
    steps = empty.refuse("train_p_diff.py", *WHOLE, *FEW, "task.model=convnet_mini", "task.model.name=convnet_mini", k)
    assert_names(steps, "task.collect", "independent")
    more = empty.refuse("task_training.py", *shared, *independent, "task.collect.runs=5", "task.param.k=5")
    assert_names(more, "task.param.k=5", 4)


def test_independent_networks_of_a_partial_subset_are_refused(empty):
    assert_names(empty.refuse("task_training.py", "task.collect=independent"), "task.param.subset=all")


@pytest.mark.parametrize("override, words", [
    ("task.collect.every=0", ["task.collect.every=0", 1, "spread"]),
    ("task.collect.every=often", ["task.collect.every=often", "spread"]),
    ("task.param.k=many", ["task.param.k=many", 2]),
])  # fmt: skip
def test_a_wrong_way_to_collect_is_named_before_anything_is_trained(empty, override, words):
    assert_names(empty.refuse("task_training.py", override), *words)
    assert not (empty.path / "param_data").exists()


def test_an_unknown_way_to_collect_is_refused_with_the_known_ones(empty, capsys):
    error = empty.run("task_training.py", "task.collect=stepps").error
    shown = f"{error}\n{capsys.readouterr().err}"
    assert error != 0 and "Traceback" not in shown
    assert_names(shown, "independent", "steps")


def test_a_network_without_training_gives_checkpoints(empty):
    options = ["task.model=mlp_mini", "task.model.name=mlp_mini", "task.epochs=0", "task.param.k=2"]
    assert empty.run("task_training.py", *WHOLE, *options).error == 0
    assert len(CheckpointSet.load(empty.path / "checkpoints.safetensors")) == 2
