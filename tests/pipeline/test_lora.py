"""Adapters through both entry points: collected, generated, merged, scored, exported and imported again."""

import sys

import pytest
import timm
import torch
from safetensors.torch import load_file

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.command_line.run_command import run_command
from core.evaluation.scores import ScoreTable
from core.publishing.generated_models import GeneratedModels
from scripts import export, import_checkpoints
from tasks.networks.build import ModelSpec, build_from_spec
from tests.digits import normalized_digits
from tests.pipeline.test_whole_networks import FEW

VIT = {
    "embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "class_token": False, "global_pool": "avg",
    "init_values": 0.01,
}  # fmt: skip
LORA = {"rank": 2, "targets": ["attn.qkv", "mlp.fc1"]}
NAME, FACTS = "vit_tiny_patch16_224", {"num_classes": 10, "channels": 1, "image_size": 16}
TINY = [
    "experiment=digits_lora", f"task.model.name={NAME}", "task.param.path=checkpoints.safetensors", "output_dir=run",
    "task.model.lora.rank=2", "task.model.lora.targets=[attn.qkv,mlp.fc1]", "task.collect.every=1",
    "task.model.options.embed_dim=16", "task.model.options.depth=1", "+task.model.options.num_heads=2",
]  # fmt: skip


def call(script, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, words)])
    with pytest.raises(SystemExit) as exited:
        run_command(script.main)
    assert exited.value.code == 0


@pytest.mark.usefixtures("few_digits")
def test_adapters_go_through_the_whole_pipeline(empty, capfd):
    assert empty.run("task_training.py", *TINY).error == 0
    checkpoints = CheckpointSet.load(empty.path / "checkpoints.safetensors")
    assert len(checkpoints.subset.updates) == 2 and len(checkpoints.subset.names) == 4
    b = next(name for name in checkpoints.subset.names if ".lora_B." in name)
    assert not checkpoints.network[b].any() and unflatten(checkpoints.vectors_KD[0], checkpoints.subset)[b].any()

    assert empty.run("train_p_diff.py", *TINY, *FEW).error == 0
    logged = capfd.readouterr()
    assert "cannot be split" not in logged.out + logged.err
    rows = {row["source"]: row for row in empty.metrics("run")["table"]}
    assert {"laplace", "finetuned_2", "gaussian", "ema"} <= rows.keys() and rows["original"]["n"] == 4
    table = ScoreTable.load(empty.path / "run/scores/p_diff.npz")
    assert table.subset == checkpoints.subset and rows["p_diff"]["min_l2_mean"] > 0

    # Plain timm loads the merged weights, whose predictions are those that were scored.
    images, labels = normalized_digits("test")
    folder = empty.path / "run/generated"
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        wrong_N = (plain(images).argmax(1) != labels).numpy()
        adapted = build_from_spec(FACTS, ModelSpec.from_config({"name": NAME, "options": VIT, "lora": LORA}))
        vector_D = GeneratedModels.load(folder).vectors_MD[0]
        adapted.load_state_dict({**checkpoints.network, **unflatten(vector_D, checkpoints.subset)})
        torch.testing.assert_close(plain(images), adapted.eval()(images), atol=1e-5, rtol=1e-5)
    assert (wrong_N == table.scores["test"].wrong_MN[0]).all()
    card = (folder / "README.md").read_text()
    assert "LoRA" in card and "blocks.0.attn.qkv.weight" in card and 'metadata["updates"]' in card

    # Adapters in the format of peft are imported as the vectors that they were.
    call(export, empty.monkeypatch, folder, "--model", 0, 1, "--peft", "--out", "adapters")
    folders = ["adapters/000_adapter", "adapters/001_adapter"]
    words = ["--base", "run/generated/network.safetensors", "--model", NAME, "--dataset", "digits"]
    options = [f"{name}={value}" for name, value in VIT.items()]
    call(import_checkpoints, empty.monkeypatch, "--peft", *folders, *words, "--model-option", *options)
    imported = CheckpointSet.load(empty.path / "param_data/adapters/checkpoints.safetensors")
    assert torch.equal(imported.vectors_KD, GeneratedModels.load(folder).vectors_MD[:2])
    assert [update.weight for update in imported.subset.updates] == [
        update.weight for update in checkpoints.subset.updates
    ]
    few = [*FEW[1:], "system.autoencoder_steps=2", "system.diffusion_steps=2"]
    path = "task.param.path=param_data/adapters/checkpoints.safetensors"
    settings = [path, "task.param.k=2", "task.data.dataset=digits", "output_dir=imported", "trainer=cpu", "logger=none"]
    assert empty.run("train_p_diff.py", *settings, *few, tiny=False).error == 0
    assert load_file(empty.path / "imported/generated/000.safetensors").keys() == plain.state_dict().keys()
