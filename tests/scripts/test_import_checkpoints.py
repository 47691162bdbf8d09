"""Tests of the import of other programs' checkpoints: read without running code, checked, modeled and scored."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.command_line.run_command import run_command
from scripts import import_checkpoints
from tests.digits import normalized_digits
from tests.pipeline.conftest import Workplace, assert_names, assert_one_line
from tests.pipeline.shortcuts import few_digits, take_shortcuts
from tests.pipeline.test_whole_networks import FEW
from tests.scripts import foreign

TINY = [
    "trainer=cpu",
    "system.autoencoder_steps=6",
    "system.diffusion_steps=6",
    "generation.num_models=4",
    "evaluation.num_baselines=3",
    "evaluation.num_finetuned=2",
    "evaluation.finetune_steps=[2]",
    "logger=none",
]
RESNET = ["--model", "test_resnet", "--dataset", "digits"]


@pytest.fixture(scope="module")
def states():
    made = foreign.train(foreign.learn(foreign.make_network()), "layer4.0.bn2")
    for state in made:  # noise moves the vectors far enough apart that their accuracies differ
        state["layer4.0.bn2.weight"] += torch.randn_like(state["layer4.0.bn2.weight"])
    return made


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make a folder with my_code.py for commands to run in; my_code is imported anew in every test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_code.py").write_text(foreign.OWN_MODULE)
    with take_shortcuts(), few_digits():
        yield Workplace(tmp_path, monkeypatch)
    sys.modules.pop("my_code", None)


def call(place, *words) -> int | str | None:
    place.monkeypatch.setattr(sys, "argv", ["import_checkpoints", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        run_command(import_checkpoints.main)
    return stopped.value.code


def refused(place, *words) -> str:
    """Run an import that must end with one line on stderr and write nothing; return the line."""
    error = assert_one_line(call(place, *words))
    assert not (place.path / "param_data").exists()
    return error


def stored(folder: str = "runs") -> CheckpointSet:
    return CheckpointSet.load(Path("param_data") / folder / "checkpoints.safetensors")


def next_command(printed: str) -> list[str]:
    """Return the overrides of the command in the last line of an import."""
    command = shlex.split(printed.splitlines()[-1])
    assert command[:3] == ["next:", "python", "train_p_diff.py"]
    return command[3:]


def run_printed(place, capsys, *overrides):
    return place.run("train_p_diff.py", *next_command(capsys.readouterr().out), *TINY, *overrides, tiny=False).error


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
def test_a_folder_of_state_dicts_is_imported_modeled_and_scored(place, capsys, states, ending):
    foreign.write(states, place.path / "runs", ending)
    assert call(place, *RESNET, "--dir", "runs", "--subset", "layer4.0.bn2.*") == 0
    checkpoints = stored()
    assert checkpoints.accuracy_K.max() > 0.2 and len(checkpoints.accuracy_K.unique()) > 1
    assert checkpoints.provenance["files"] == [f"epoch{number}{ending}" for number in range(5, 11)]
    images, labels = normalized_digits(checkpoints.provenance["accuracy_split"])
    model = foreign.make_network().eval()
    for state, vector_D, accuracy in zip(states, checkpoints.vectors_KD, checkpoints.accuracy_K, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in unflatten(vector_D, checkpoints.subset).items())
        model.load_state_dict(state)
        with torch.no_grad():
            assert (model(images).argmax(1) == labels).double().mean() == accuracy
    if ending == ".pth":
        assert run_printed(place, capsys) == 0
        rows = {row["source"]: row["n"] for row in place.metrics("outputs/runs")["table"]}
        assert rows["original"] == 6 and rows["p_diff"] == 4 and rows["finetuned_2"] == 2
        foreign.make_network().load_state_dict(load_file("outputs/runs/generated/000.safetensors"))
        config = (place.path / "outputs/runs/config.yaml").read_text()
        assert "name: test_resnet" in config and "layer4.0.bn2.*" in config


def test_the_summary_has_a_line_for_each_fact_and_ends_with_the_next_command(place, capsys, states):
    foreign.write(states[:3], place.path / "runs")
    assert call(place, *RESNET, "--dir", "runs", "--subset", "layer4.0.bn2.*") == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["checkpoints", "parameters", "accuracy", "wrote", "next"]
    assert_names(lines["checkpoints"], 3, "epoch5.pth", "epoch7.pth")
    assert_names(lines["parameters"], stored().subset.num_params, len(stored().subset.names))
    assert_names(lines["accuracy"], *(f"{100 * extreme:.2f}" for extreme in stored().accuracy_K.aminmax()))
    assert lines["wrote"].strip() == "param_data/runs/checkpoints.safetensors" == str(stored().path)


def test_the_help_gives_the_default_of_every_option_and_an_example(place, capsys):
    assert call(place, "--help") == 0
    options, _, examples = capsys.readouterr().out.partition("\nfiles:")[2].partition("\nexamples:")
    described = re.split(r"\n  (?=--)", options)[1:]
    assert len(described) == 14 and all(re.search(r"\((default:|no\s+default|required)", one) for one in described)
    assert "python -m scripts.import_checkpoints --model" in examples


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"state_dict": {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"state_dict": {"model": {f"module.model.{name}": tensor for name, tensor in state.items()}}},
        lambda state: {name.replace("layer4.", "layer4._orig_mod."): tensor for name, tensor in state.items()},
        lambda state: {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
    ],
)
def test_wrappers_and_prefixes_are_taken_off(place, states, wrap):
    foreign.write(states, place.path / "runs", wrap=wrap)
    assert call(place, *RESNET, "--dir", "runs", "--subset", "layer4.0.bn2.*") == 0
    expected = torch.stack([torch.cat([state[name] for name in stored().subset.names]) for state in states])
    torch.testing.assert_close(stored().vectors_KD, expected, rtol=1e-3, atol=1e-3)


def test_files_with_the_subset_alone_need_a_base(place, states):
    part = [{name: tensor for name, tensor in state.items() if name.startswith("layer4.0.bn2.")} for state in states]
    foreign.write(part, place.path / "runs")
    words = [*RESNET, "--dir", "runs", "--subset", "layer4.0.bn2.*"]
    assert_names(refused(place, *words), 6, "--base")
    torch.save(states[0], place.path / "base.pt")
    assert call(place, *words, "--base", "base.pt") == 0
    whole = stored()
    torch.save(states[0], place.path / "runs" / "epoch1.pt")
    assert call(place, *words, "--out", "other.safetensors") == 0
    other = CheckpointSet.load(Path("other.safetensors"))
    assert other.provenance["base"] == "epoch1.pt" and torch.equal(other.vectors_KD[1:], whole.vectors_KD)
    assert torch.equal(other.accuracy_K[1:], whole.accuracy_K)


def test_files_that_do_not_fit_are_all_named(place, states):
    states = [dict(state) for state in states]
    del states[1]["layer4.0.bn2.weight"]
    states[2]["fc.weight"] = torch.zeros(7, 3)
    states[4]["extra.weight"] = torch.zeros(2)
    error = refused(place, *RESNET, "--dir", foreign.write(states, place.path / "runs"), "--subset", "layer4.0.bn2.*")
    assert_names(error, 3, 6, "epoch6.pth", "layer4.0.bn2.weight", "epoch7.pth", "fc.weight", "(7, 3)", "epoch9.pth")
    assert_names(error, "extra.weight")
    assert re.search(r"\(10, \d+\)", error), "the expected shape is missing"


def test_checkpoints_of_another_network_are_refused(place, states):
    error = refused(
        place, "--model", "resnet10t", "--dataset", "digits", "--dir", foreign.write(states, place.path / "runs")
    )
    assert_names(error, "resnet10t")


def test_a_frozen_rest_that_differs_is_refused(place, states):
    states = [dict(state) for state in states]
    moved = foreign.train(foreign.make_network(), "layer4.0")
    words = [*RESNET, "--dir", foreign.write(moved, place.path / "runs"), "--subset", "layer4.0.bn2.*"]
    error = refused(place, *words)
    assert_names(error, 5, 6, "epoch5.pth", "epoch6.pth", "--subset all", "--allow-different-rest")
    assert call(place, *words, "--allow-different-rest") == 0
    assert call(place, *words[:-1], "layer4.0.*", "--out", "covering.safetensors") == 0


def test_a_pickle_that_needs_code_is_named_and_not_run(place, states):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch executed",)

    folder = foreign.write(states, place.path / "runs")
    torch.save({"state_dict": states[0], "more": Evil()}, folder / "epoch7.pth")
    error = refused(place, *RESNET, "--dir", folder, "--subset", "layer4.0.bn2.*")
    assert_names(error, "epoch7.pth", "system")
    assert not (place.path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x04 no more", b"<html>404</html>"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_damaged_file_is_named(place, states, content, ending):
    folder = foreign.write(states[:3], place.path / "runs")
    (folder / f"epoch1{ending}").write_bytes(content)
    assert f"epoch1{ending}" in refused(place, *RESNET, "--dir", folder, "--subset", "layer4.0.bn2.*")


@pytest.mark.parametrize(
    "words, told",
    [
        ([*RESNET, "--dir", "nowhere"], ["nowhere"]),
        ([*RESNET, "--dir", "runs", "--files", "x*"], ["runs", 0, "x*"]),
        (["--model", "resnet81", "--dataset", "digits", "--dir", "runs"], ["resnet81", "resnet18"]),
        (["--model", "test_resnet", "--dataset", "digit", "--dir", "runs"], ["digit", "digits"]),
        ([*RESNET, "--dir", "runs", "--data", "val=3"], ["task.data.val=3"]),
        ([*RESNET, "--dir", "runs", "--data", "root"], ["--data root", "KEY=VALUE"]),
        ([*RESNET, "--dir", "runs", "--model-option", "no_such=1"], ["no_such"]),
        ([*RESNET, "--dir", "runs", "--subset", "layer9.*"], ["layer9.*"]),
        ([*RESNET, "--dir", "runs", "--count", "99"], ["count=99"]),
        ([*RESNET, "--dir", "runs", "--base", "none.pt"], ["none.pt"]),
        (["--model", "my_code:Missing", "--dataset", "digits", "--dir", "runs"], ["my_code", "Missing"]),
        (["--model", "no_module:Net", "--dataset", "digits", "--dir", "runs"], ["no_module"]),
        (["--score-with", "my_code", "--dir", "runs"], ["package.module:name"]),
        (["--score-with", "my_code:without_train", "--dir", "runs"], ["train"]),
        (["--score-with", "my_code:only_a_model", "--dir", "runs"], ["my_code:only_a_model", "Net"]),
        (["--score-with", "my_code:broken", "--dir", "runs"], ["KeyError", "no such thing", "my_code.py"]),
    ],
)
def test_a_wrong_argument_is_named(place, states, words, told):
    foreign.write(states[:2], place.path / "runs")
    assert_names(refused(place, *words), *told)


def test_an_existing_file_is_never_overwritten(place, states):
    foreign.write(states[:2], place.path / "runs")
    (place.path / "out.safetensors").write_text("precious")
    assert_names(refused(place, *RESNET, "--dir", "runs", "--out", "out.safetensors"), "out.safetensors", "--out")
    assert (place.path / "out.safetensors").read_text() == "precious"


def test_the_stem_and_options_follow_from_the_files(place):
    small = foreign.train(foreign.make_network("resnet18", small_stem=True), "layer4.1.bn2", steps=2)
    assert (
        call(place, "--model", "resnet18", "--dataset", "digits", "--dir", foreign.write(small, place.path / "small"))
        == 0
    )
    large = foreign.train(foreign.make_network("resnet18"), "layer4.1.bn2", steps=2)
    assert (
        call(place, "--model", "resnet18", "--dataset", "digits", "--dir", foreign.write(large, place.path / "large"))
        == 0
    )
    assert [stored(name).settings["imported"]["model"]["small_stem"] for name in ("small", "large")] == [True, False]
    options = {"img_size": 16, "patch_size": 4, "depth": 2}
    vit = foreign.train(foreign.make_network("vit_tiny_patch16_224", **options), "norm", steps=2)
    words = [
        "--model",
        "vit_tiny_patch16_224",
        "--dataset",
        "digits",
        "--dir",
        foreign.write(vit, place.path / "vit"),
        "--subset",
        "*norm*",
    ]
    assert call(place, *words, "--model-option", *(f"{key}={value}" for key, value in options.items())) == 0
    assert stored("vit").settings["imported"]["model"]["options"] == options


def own_states(place) -> Path:
    namespace: dict = {}
    exec(foreign.OWN_MODULE, namespace)
    torch.manual_seed(0)
    model, states = namespace["Net"](), []
    images, labels = namespace["images"](60, 0).tensors
    optimizer = torch.optim.SGD([*model.features[1].parameters(), *model.head.parameters()], lr=0.1)
    for _ in range(6):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return foreign.write(states, place.path / "own")


def test_the_users_own_network_and_images(place, capsys):
    assert (
        call(place, "--score-with", "my_code:task", "--dir", own_states(place), "--subset", "features.1.*", "head.*")
        == 0
    )
    words = next_command(capsys.readouterr().out)
    assert place.run("train_p_diff.py", *words, *TINY, tiny=False).error == 0
    metrics = place.metrics("outputs/own")
    assert [row["n"] for row in metrics["table"]][:3] == [6, 1, 4] and "import" in metrics["seconds"]
    assert "my_code:task" in (place.path / "outputs/own/report/index.html").read_text()

    unsaid = [word for word in words if "score_with" not in word]
    error = place.refuse("train_p_diff.py", *unsaid, *TINY, tiny=False)
    assert_names(error, "task.score_with=my_code:task")
    (place.path / "my_code.py").write_text(foreign.OWN_MODULE.replace("images(30, 1)", "images(30, 9)"))
    sys.modules.pop("my_code")
    error = place.refuse("train_p_diff.py", *words, *TINY, "mode=test", tiny=False)
    assert_names(error, "my_code:task", "param_data/own/checkpoints.safetensors")


def test_the_printed_command_chooses_the_autoencoder_for_whole_networks(place, capsys, states):
    assert call(place, *RESNET, "--dir", foreign.write(states, place.path / "runs"), "--subset", "all") == 0
    printed = capsys.readouterr().out
    assert {"system/autoencoder=chunked", "task.collect.optimizer.lr=5e-4"} <= set(next_command(printed))
    assert place.run("train_p_diff.py", *next_command(printed), *TINY, *FEW, tiny=False).error == 0


def test_images_are_normalized_as_the_users_training_did(place, capsys, states):
    words = [
        *RESNET,
        "--dir",
        foreign.write(states, place.path / "runs"),
        "--subset",
        "layer4.0.bn2.*",
        "--data",
        "mean=[0.5]",
        "std=[0.25]",
    ]
    assert call(place, *words) == 0
    assert stored().provenance["normalization"] == {"mean": [0.5], "std": [0.25]}
    command = next_command(capsys.readouterr().out)
    forgotten = [word for word in command if not word.startswith("task.data.mean")]
    assert_names(place.refuse("train_p_diff.py", *forgotten, *TINY, tiny=False), "task.data.mean", "[0.5]")
    assert place.run("train_p_diff.py", *command, *TINY, tiny=False).error == 0


def test_a_network_that_a_function_makes_has_to_be_named_again(place, capsys, states):
    (place.path / "nets.py").write_text(
        "import timm\n\n"
        "def net(classes):\n    return timm.create_model('test_resnet', num_classes=classes, in_chans=1)\n"
    )
    foreign.write(states, place.path / "runs")
    assert (
        call(
            place,
            "--model",
            "nets:net",
            "--model-option",
            "classes=10",
            "--dataset",
            "digits",
            "--dir",
            "runs",
            "--subset",
            "layer4.0.bn2.*",
        )
        == 0
    )
    words = next_command(capsys.readouterr().out)
    unnamed = [word for word in words if "model.name" not in word]
    assert_names(place.refuse("train_p_diff.py", *unnamed, *TINY, tiny=False), "task.model.name=nets:net")
    assert place.run("train_p_diff.py", *words, *TINY, tiny=False).error == 0


@pytest.mark.parametrize(
    "override, told",
    [
        ("task.model.name=resnet18", ["task.model.name", "test_resnet", "resnet18"]),
        ("task/model=resnet50", ["task.model.name", "test_resnet", "resnet50"]),
        ("task.param.subset=all", ["task.param.subset"]),
        ("task.data.dataset=cifar10", ["task.data.dataset", "digits", "cifar10"]),
        ("task.data.split_seed=1", ["task.data.split_seed", 0, 1]),
        ("task.param.k=9", ["task.param.k=9", 6]),
    ],
)
def test_an_override_that_contradicts_the_file_is_refused(place, capsys, states, override, told):
    foreign.write(states, place.path / "runs")
    assert call(place, *RESNET, "--dir", "runs", "--subset", "layer4.0.bn2.*") == 0
    assert_names(assert_one_line(run_printed(place, capsys, override)), *told)
    assert not (place.path / "outputs").exists()


def test_a_checkpoints_file_cannot_make_timm_read_other_files(place, capsys, states):
    foreign.write(states, place.path / "runs")
    assert call(place, *RESNET, "--dir", "runs", "--subset", "layer4.0.bn2.*") == 0
    checkpoints = stored()
    checkpoints.settings["imported"]["model"]["options"] = {"checkpoint_path": "elsewhere.pth"}
    checkpoints.save(checkpoints.path)
    assert_names(assert_one_line(run_printed(place, capsys)), "checkpoint_path")


def test_collecting_does_not_touch_an_imported_file(place, states):
    foreign.write(states, place.path / "runs")
    assert call(place, *RESNET, "--dir", "runs", "--subset", "layer4.0.bn2.*") == 0
    before = stored().path.read_bytes()
    error = place.refuse("task_training.py", "task.param.path=param_data/runs/checkpoints.safetensors")
    assert_names(error, "param_data/runs/checkpoints.safetensors", "train_p_diff.py")
    assert stored().path.read_bytes() == before


def test_files_with_equal_numbers_are_logged(place, states, caplog):
    folder = foreign.write(states, place.path / "runs")
    torch.save(states[-1], folder / "best.pth")
    assert call(place, *RESNET, "--dir", folder, "--subset", "layer4.0.bn2.*") == 0
    (record,) = (record for record in caplog.records if "best.pth" in record.getMessage())
    assert "epoch10.pth" in record.getMessage() and record.levelname == "WARNING"
    assert json.dumps(stored().settings)
