"""Tests of every system and every architecture of the paper through both entry points, on tiny networks."""

import pytest

from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.scores import ScoreTable
from tests.pipeline.test_whole_networks import FEW

SHRUNK = {  # tiny networks whose parameters have the names of the full-size networks
    "resnet18": {"channels": "[4,4,8,8]"},
    "resnet50": {"channels": "[4,4,8,8]"},
    "vit_tiny": {"embed_dim": 12, "depth": 12, "patch_size": 8},
    "vit_base": {"embed_dim": 24, "num_heads": 2, "depth": 12, "patch_size": 8},
    "convnext_tiny": {"depths": "[1,1,1,3]", "dims": "[4,4,8,8]"},
    "convnext_base": {"depths": "[1,1,1,3]", "dims": "[4,4,8,12]"},
}
SUBSETS = {
    "resnet18": ["layer4.1.bn1", "layer4.1.bn2"],
    "resnet50": ["layer4.2.bn2", "layer4.2.bn3"],
    "vit_tiny": ["blocks.11.norm2", "norm"],
    "vit_base": ["blocks.11.norm2", "norm"],
    "convnext_tiny": ["stages.3.blocks.2.norm", "head.norm"],
    "convnext_base": ["stages.3.blocks.2.norm", "head.norm"],
}
NAMES = {"vit_tiny": "vit_tiny_patch16_224", "vit_base": "vit_base_patch16_224"}


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("model", SHRUNK)
def test_an_architecture_goes_through_the_whole_pipeline(empty, model):
    chosen = [
        f"task/model={model}",
        f"task.model.name={NAMES.get(model, model)}",
        "output_dir=run",
        "task.param.path=checkpoints.safetensors",
    ]
    chosen += [f"+task.model.options.{name}={value}" for name, value in SHRUNK[model].items()]
    assert empty.run("task_training.py", *chosen, "task.param.k=4").error == 0
    assert empty.run("train_p_diff.py", *chosen, *FEW).error == 0
    table = {row["source"]: row for row in empty.metrics("run")["table"]}
    assert (table["original"]["n"], table["p_diff"]["n"]) == (4, 2)
    subset = CheckpointSet.load(empty.path / "checkpoints.safetensors").subset
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in subset.names)) == SUBSETS[model]


@pytest.mark.parametrize(
    "system",
    [["system=vae"], ["system/autoencoder=pca"], ["system/autoencoder=chunked"], ["system/autoencoder=medium"]],
    ids="".join,
)
def test_a_system_goes_through_the_whole_pipeline(workplace, system):
    out = f"outputs/{system[0].partition('=')[2]}"
    assert workplace.run("train_p_diff.py", *system, f"output_dir={out}").error == 0
    metrics = workplace.metrics(out)
    assert {row["source"] for row in metrics["table"]} >= {"original", "p_diff", "reconstructed"}
    assert ("diffusion" in metrics["seconds"]) == (system != ["system=vae"])
    assert (workplace.path / out / "report/index.html").is_file()


def test_a_second_run_over_the_same_checkpoints_reuses_the_scores_of_the_originals(workplace):
    assert (
        workplace.run("train_p_diff.py", "output_dir=outputs/other", "system.autoencoder.latent_noise=0.3").error == 0
    )
    first, second = (
        ScoreTable.load(workplace.path / folder / "scores/original.npz")
        for folder in ("outputs/digits_test_resnet/ae_ddpm", "outputs/other")
    )
    assert second.seconds == first.seconds and second.identity != first.identity
    assert (second.latents_ML != first.latents_ML).any()
