"""Tests of the files beside generated models: a card whose code works when pasted, and timm's config.json."""

import json
import re
import subprocess
import sys

import pytest
import timm
import torch
import yaml
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from torchvision.models import resnet50

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import flatten, resolve_subset, unflatten
from core.checkpoints.vector_rows import VectorRows
from core.command_line.entry_point import to_plain
from core.publishing.export import export
from core.publishing.generated_models import GeneratedModels
from core.runtime.artifacts import write_json
from core.runtime.provenance import ROOT
from core.runtime.run_directory import RunDirectory
from tasks.data.splits import DataOptions
from tasks.description import describe_network
from tasks.networks.build import build_network
from tests.core.tiny import assert_same
from tests.scripts import foreign

METRICS = {
    "table": [
        {"source": "p_diff", "n": 9, "accuracy_mean": 0.5, "accuracy_best": 0.625, "max_iou_mean": 0.75},
        {"source": "ensemble", "n": 1, "accuracy_mean": 0.5, "accuracy_best": 0.5},
    ],
    "verdict": {"sentences": ["No, it is not better.", "More."]},
}


def task_config():
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("base", overrides=["trainer=cpu"])


def checkpoints_of(recipe, facts, **provenance):
    torch.manual_seed(0)
    model = build_network(**recipe, **facts)
    subset = resolve_subset(model, "last_norms")
    vectors_KD = flatten(model, subset) + torch.randn(3, subset.num_params)
    settings = {
        "task": {
            "model": {"small_stem": None, "pretrained": False, "options": {}} | recipe,
            "data": {"dataset": "digits"},
        }
    }
    return model, CheckpointSet(
        rows=VectorRows([vectors_KD]),
        accuracy_K=torch.ones(3),
        subset=subset,
        network=model.state_dict(),
        settings=settings,
        provenance={"seconds": {}, "facts": facts} | provenance,
    )


def exported(checkpoints, folder, metrics=None, num_exported=1):
    """Export the vectors of the checkpoints as generated models, and return the folder."""
    run = RunDirectory(folder)
    if metrics:
        write_json(run.metrics, metrics)
    models = GeneratedModels(
        vectors_MD=checkpoints.vectors_KD,
        subset=checkpoints.subset,
        network=checkpoints.network,
        seed=42,
        generator="0123456789abcdef",
    )
    described = describe_network(checkpoints, DataOptions(**to_plain(task_config().task.data)))
    export(models, checkpoints, described, run=run, num_exported=num_exported)
    return run.generated


def rows_of(markdown):
    """Return the cells of each table row, the header first."""
    lines = (
        line for line in markdown.splitlines() if line.startswith("|") and not line.startswith(("|-", "| -", "|:"))
    )
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def code_of(folder):
    """Return the two pieces of code of the card: one makes a state dict, and one loads it into the network."""
    make_state, load = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return make_state, load


def pasted(folder, monkeypatch):
    """Run the code of the card and return its `model`."""
    monkeypatch.chdir(folder)
    namespace: dict = {}
    for code in code_of(folder):
        exec(code, namespace)
    return namespace["model"]


@pytest.mark.parametrize(
    "recipe, facts, hub",
    [
        ({"name": "resnet18"}, {"num_classes": 7, "channels": 3, "image_size": 96}, True),
        ({"name": "resnet18"}, {"num_classes": 10, "channels": 1, "image_size": 16}, False),
        ({"name": "resnet18", "small_stem": False}, {"num_classes": 10, "channels": 1, "image_size": 64}, True),
        ({"name": "test_resnet"}, {"num_classes": 10, "channels": 1, "image_size": 16}, True),
        (
            {
                "name": "vit_tiny_patch16_224",
                "small_stem": False,
                "options": {"img_size": 32, "patch_size": 8, "depth": 2, "global_pool": "avg"},
            },
            {"num_classes": 5, "channels": 4, "image_size": 32},
            True,
        ),
    ],
)
def test_the_code_of_the_card_gives_the_generated_network(tmp_path, monkeypatch, recipe, facts, hub):
    model, checkpoints = checkpoints_of(recipe, facts)
    folder = exported(checkpoints, tmp_path)
    images = torch.randn(2, facts["channels"], facts["image_size"], facts["image_size"])
    expected = torch.func.functional_call(
        model.eval(), unflatten(checkpoints.vectors_KD[0], checkpoints.subset), (images,)
    )
    torch.testing.assert_close(pasted(folder, monkeypatch)(images), expected, rtol=0, atol=0)

    assert (folder / "config.json").is_file() == (folder / "model.safetensors").is_file() == hub
    if hub:
        config = json.loads((folder / "config.json").read_text())
        assert config["architecture"] == recipe["name"] and config["num_classes"] == facts["num_classes"]
        from_folder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(from_folder(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "fcn_small", "options": {"channels": [4, 4, 8, 8]}},
        {"name": "fcn_resnet50", "options": {"aux_loss": True, "weights_backbone": "IMAGENET1K_V1"}},
    ],
    ids=lambda recipe: recipe["name"],
)
def test_the_code_of_the_card_gives_a_network_for_segmentation(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr("tasks.networks.published.download", lambda *_: resnet50().state_dict())
    model, checkpoints = checkpoints_of(recipe, {"num_classes": 5, "channels": 3, "image_size": 32})
    monkeypatch.setattr("tasks.networks.published.download", None)  # the card needs no weights
    folder, images = exported(checkpoints, tmp_path), torch.randn(1, 3, 32, 32)
    expected = torch.func.functional_call(
        model.eval(), unflatten(checkpoints.vectors_KD[0], checkpoints.subset), (images,)
    )
    outputs = pasted(folder, monkeypatch)(images)
    assert torch.equal(outputs["out"] if recipe["name"] == "fcn_resnet50" else outputs, expected)
    assert not (folder / "config.json").exists()


@pytest.mark.parametrize("name", ["resnet18", "convnext_mini"])
def test_the_lines_of_the_card_make_the_state_dict_of_any_model(tmp_path, monkeypatch, name):
    _, checkpoints = checkpoints_of({"name": name}, {"num_classes": 10, "channels": 1, "image_size": 16})
    folder = exported(checkpoints, tmp_path, num_exported=3)
    make_state, _ = code_of(folder)
    imported = {line.split()[1].partition(".")[0] for line in make_state.splitlines() if re.match("import|from", line)}
    assert imported == {"json", "safetensors"} and make_state.count("number = 0 ") == 1
    assert make_state in (ROOT / "docs/publishing.md").read_text()
    wanted = make_state.replace("number = 0 ", "number = 2 ")
    script = f"{wanted}\nfrom safetensors.torch import save_file\nsave_file(state_dict, '../pasted.safetensors')"
    subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, check=True)
    assert_same(load_file(tmp_path / "pasted.safetensors"), load_file(folder / "002.safetensors"))
    assert_same(load_file(folder / "network.safetensors"), checkpoints.network)


def test_without_full_state_dicts_the_card_names_none(tmp_path, monkeypatch):
    _, checkpoints = checkpoints_of({"name": "test_resnet"}, {"num_classes": 10, "channels": 1, "image_size": 16})
    folder = exported(checkpoints, tmp_path, num_exported=0)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "network.safetensors", "vectors.safetensors"]
    card = (folder / "README.md").read_text()
    named = set(re.findall(r"[\w.]+\.(?:safetensors|json)\b", card))
    assert named == {"network.safetensors", "vectors.safetensors"}
    bias = pasted(folder, monkeypatch).get_parameter("layer4.0.bn2.bias")
    assert torch.equal(bias, unflatten(checkpoints.vectors_KD[0], checkpoints.subset)["layer4.0.bn2.bias"])


def test_the_front_matter_is_yaml_and_leaves_the_license_open(tmp_path):
    _, checkpoints = checkpoints_of(
        {"name": "test_resnet"},
        {"num_classes": 10, "channels": 1, "image_size": 16},
        normalization={"mean": [0.3], "std": [0.2]},
    )
    card = (exported(checkpoints, tmp_path) / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["library_name"] == "timm" and front["pipeline_tag"] == "image-classification"
    assert front["datasets"] == ["digits"] and "license" not in front
    assert not rows_of(body), "a table of numbers that were never measured"
    assert all(word in body for word in ("`000.safetensors`", "models 0 to 2", "[0.3]", "[0.2]"))


def test_measured_numbers_are_those_of_metrics_json(tmp_path):
    _, checkpoints = checkpoints_of({"name": "test_resnet"}, {"num_classes": 10, "channels": 1, "image_size": 16})
    card = (exported(checkpoints, tmp_path, METRICS) / "README.md").read_text()
    _, *rows = rows_of(card)
    numbers = {re.match(r"\w+", row[0])[0]: row[1:] for row in rows}
    assert numbers == {"p_diff": ["9", "50.00", "62.50", "0.750"], "ensemble": ["1", "50.00", "50.00", "–"]}
    assert METRICS["verdict"]["sentences"][0] in card


@pytest.mark.parametrize(
    "scored, said, claimed",
    [
        ({"num_models": 3}, "Row p_diff is about exactly the models in this folder.", True),
        (
            {"num_models": 1},
            "Row p_diff is about model 0 of this folder. The table does not cover models 1 to 2.",
            True,
        ),
        ({"num_models": 9}, "Row p_diff is about 9 models. This folder holds the first 3 of them.", True),
        (
            {"seed": 7},
            "No model in this folder was scored. Row p_diff is about 3 other models, made with seed 7.",
            False,
        ),
        ({"generator": "f"}, "Row p_diff is about 3 other models, made with another generator or sampler.", False),
        (None, "row p_diff may be about other models than those in this folder", True),
    ],
)
def test_scores_of_other_models_are_not_claimed(tmp_path, scored, said, claimed):
    _, checkpoints = checkpoints_of({"name": "test_resnet"}, {"num_classes": 10, "channels": 1, "image_size": 16})
    same = {"seed": 42, "generator": "0123456789abcdef", "num_models": 3}
    metrics = METRICS | ({} if scored is None else {"scored": same | scored})
    card = (exported(checkpoints, tmp_path, metrics) / "README.md").read_text()
    assert said in card
    (label,) = (cells[0] for cells in rows_of(card) if cells[0].startswith("p_diff"))
    assert label == ("p_diff: generated models" if claimed else "p_diff: other generated models")


def test_a_file_that_did_not_record_its_images_takes_their_size_from_the_data(tmp_path, monkeypatch):
    _, checkpoints = checkpoints_of({"name": "resnet18"}, {"num_classes": 10, "channels": 1, "image_size": 16})
    del checkpoints.provenance["facts"]
    assert pasted(exported(checkpoints, tmp_path), monkeypatch).conv1.kernel_size == (3, 3)


def test_the_users_own_network_is_made_by_the_users_code(tmp_path, monkeypatch):
    _, checkpoints = checkpoints_of({"name": "test_resnet"}, {"num_classes": 10, "channels": 1, "image_size": 16})
    recipe = {"name": "timm:create_model", "options": {"model_name": "test_resnet", "num_classes": 10, "in_chans": 1}}
    checkpoints.settings.pop("task")
    checkpoints.settings["imported"] = {"model": recipe, "score_with": None, "data": {"dataset": "digits"}}
    folder = exported(checkpoints, tmp_path)
    assert not (folder / "config.json").exists()
    state = load_file(folder / "000.safetensors")
    assert torch.equal(pasted(folder, monkeypatch).fc.weight, state["fc.weight"])


def test_a_run_leaves_a_card_with_its_own_numbers(workplace):
    metrics = workplace.metrics()
    folder = workplace.path / "outputs/digits_test_resnet/ae_ddpm/generated"
    assert {path.name for path in folder.iterdir()} == {
        "network.safetensors",
        "vectors.safetensors",
        "000.safetensors",
        "model.safetensors",
        "README.md",
        "config.json",
    }
    card = (folder / "README.md").read_text()
    assert metrics["verdict"]["sentences"][0] in card and "[0.305]" in card
    assert metrics["scored"].keys() == {"seed", "generator", "num_models"} and metrics["scored"]["num_models"] == 5
    assert "Row p_diff is about exactly the models in this folder." in card
    model = foreign.make_network()
    model.load_state_dict(timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict())
