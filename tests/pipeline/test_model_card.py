"""Tests of the files beside generated models: a card whose code works when pasted, and timm's config.json."""

import json
import re

import pytest
import timm
import torch
import yaml
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import flatten, resolve_subset, unflatten
from core.checkpoints.vector_rows import VectorRows
from core.command_line.entry_point import to_plain
from core.publishing.export import export
from core.runtime.artifacts import write_json
from core.runtime.provenance import ROOT
from core.runtime.run_directory import RunDirectory
from tasks.data.splits import DataOptions
from tasks.description import describe_network
from tasks.networks.build import build_classifier
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
    model = build_classifier(**recipe, **facts)
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


def exported(checkpoints, folder, metrics=None):
    run = RunDirectory(folder)
    if metrics:
        write_json(run.metrics, metrics)
    export(
        checkpoints.vectors_KD,
        checkpoints,
        describe_network(checkpoints, DataOptions(**to_plain(task_config().task.data))),
        run=run,
        seed=42,
    )
    return run.generated


def rows_of(markdown):
    """Return the cells of each table row, the header first."""
    lines = (
        line for line in markdown.splitlines() if line.startswith("|") and not line.startswith(("|-", "| -", "|:"))
    )
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def pasted(folder, monkeypatch):
    """Run the code of the card and return its `model`."""
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    namespace: dict = {}
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


def test_the_front_matter_is_yaml_and_leaves_the_license_open(tmp_path):
    _, checkpoints = checkpoints_of(
        {"name": "test_resnet"},
        {"num_classes": 10, "channels": 1, "image_size": 16},
        normalization={"mean": [0.3], "std": [0.2]},
    )
    card = (exported(checkpoints, tmp_path) / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["library_name"] == "timm" and front["datasets"] == ["digits"] and "license" not in front
    assert not rows_of(body), "a table of numbers that were never measured"
    assert all(word in body for word in ("`000.safetensors`", "`002.safetensors`", "[0.3]", "[0.2]"))


def test_measured_numbers_are_those_of_metrics_json(tmp_path):
    _, checkpoints = checkpoints_of({"name": "test_resnet"}, {"num_classes": 10, "channels": 1, "image_size": 16})
    card = (exported(checkpoints, tmp_path, METRICS) / "README.md").read_text()
    _, *rows = rows_of(card)
    numbers = {re.match(r"\w+", row[0])[0]: row[1:] for row in rows}
    assert numbers == {"p_diff": ["9", "50.00", "62.50", "0.750"], "ensemble": ["1", "50.00", "50.00", "–"]}
    assert METRICS["verdict"]["sentences"][0] in card


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
        "000.safetensors",
        "model.safetensors",
        "README.md",
        "config.json",
    }
    card = (folder / "README.md").read_text()
    assert metrics["verdict"]["sentences"][0] in card and "[0.305]" in card
    model = foreign.make_network()
    model.load_state_dict(timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict())
