"""Importing state dicts: every file that does not fit is named, with the reason and the option to set."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.checkpoints.subset import resolve_subset
from core.runtime.errors import UserError
from tasks.importing.import_checkpoints import build_fitting_network, describe_misfit, gather_vectors, read_base
from tasks.networks.build import ModelSpec, build_classifier
from tests.tasks.tiny import steps_config, task_spec

FACTS = {"num_classes": 10, "channels": 3, "image_size": 16}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


@pytest.fixture
def write(tmp_path, network):
    """Return a function that writes the state dicts of three epochs, changed by `change(epoch, state)`."""

    def write(change=lambda epoch, state: None):
        files = []
        for epoch in range(3):
            state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            state["1.weight"] += epoch
            change(epoch, state)
            files.append(tmp_path / f"epoch{epoch}.pth")
            torch.save(state, files[-1])
        return files

    return write


def gather(files, network, **options):
    subset = resolve_subset(network, ["1.*"])
    return gather_vectors(files, network, subset, **{"base": "epoch0.pth", "allow_different_rest": False, **options})


def test_the_subset_of_each_file_is_read_in_order(write, network):
    vectors_KD = gather(write(), network)
    assert vectors_KD.tolist() == [[epoch + 1.0] * 4 + [0.0] * 4 for epoch in range(3)]


def test_all_files_that_do_not_fit_are_named_with_the_reason(write, network):
    def change(epoch, state):
        if epoch == 1:
            del state["1.bias"]
        if epoch == 2:
            state["2.bias"], state["extra"] = torch.zeros(7), torch.zeros(1)

    with pytest.raises(UserError, match=r"2 of 3 files do not fit the network of epoch0\.pth: .*--files") as error:
        gather(write(change), network)
    assert "epoch1.pth lacks 1.bias" in str(error.value)
    assert "epoch2.pth has unexpected entry extra, has 2.bias (7,) instead of (2,)" in str(error.value)


def test_files_that_differ_outside_the_subset_are_refused_unless_allowed(write, network):
    files = write(lambda epoch, state: state["0.bias"].add_(epoch))
    with pytest.raises(UserError, match=r"2 of 3 files differ from epoch0\.pth.*0\.bias of epoch1\.pth.*--subset all"):
        gather(files, network)
    assert len(gather(files, network, allow_different_rest=True)) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_file_with_nan_or_infinity_is_named(write, network, value):
    def change(epoch, state):
        state["1.bias"][2] = value if epoch == 1 else 0

    with pytest.raises(UserError, match=r"epoch1\.pth holds NaN or infinity.*--files PATTERN"):
        gather(write(change), network)


def test_equal_files_are_warned_about(write, network, caplog):
    gather(write(lambda epoch, state: state["1.weight"].fill_(epoch // 2)), network)
    assert len(caplog.messages) == 1 and "epoch0.pth and epoch1.pth hold the same numbers" in caplog.text


def test_the_first_full_state_dict_is_the_base(write, network):
    files = write(lambda epoch, state: state.pop("0.weight") if epoch == 0 else None)
    assert read_base(files, None, network)[0] == files[1]
    with pytest.raises(UserError, match=r"none of the 1 files.*epoch0\.pth lacks 0\.weight.*--model.*--base FILE"):
        read_base(files[:1], None, network)


def test_a_missing_base_is_named_with_the_option(write, network, tmp_path):
    with pytest.raises(UserError, match=f"--base {tmp_path}/none.pth: file not found"):
        read_base(write(), tmp_path / "none.pth", network)


def test_a_state_dict_of_another_network_is_refused_with_the_options(tmp_path):
    task = replace(task_spec(steps_config()), model=ModelSpec("test_resnet"))
    model = build_classifier("test_resnet", num_classes=10, channels=3, image_size=16)
    state = {**model.state_dict(), "fc.bias": torch.zeros(7)}
    expected = r"a\.pth does not fit the network test_resnet for 10 classes: .*fc\.bias \(7,\).*Check --model"
    with pytest.raises(UserError, match=expected):
        build_fitting_network(task, FACTS, model, state=state, path=tmp_path / "a.pth")
    task = replace(task, score_with="my_code:task")
    for facts in (FACTS, {}):  # a task with an objective of its own has no number of classes
        with pytest.raises(UserError, match=r"a\.pth .*ResNet.*Check --score-with my_code:task"):
            build_fitting_network(task, facts, model, state=state, path=tmp_path / "a.pth")


@pytest.mark.parametrize("small_stem", [True, False])
def test_the_stem_follows_from_the_state_dict(tmp_path, small_stem):
    task = replace(task_spec(steps_config()), model=ModelSpec("resnet18"))
    built = build_classifier("resnet18", num_classes=10, channels=3, image_size=16, small_stem=small_stem)
    model, recipe = build_fitting_network(task, FACTS, built, state=built.state_dict(), path=tmp_path / "a.pth")
    assert recipe["small_stem"] == small_stem
    assert not describe_misfit(built.state_dict(), model.state_dict(), model.state_dict())
