"""State dicts of other programs: how files are found and unwrapped, and errors about unreadable files."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.runtime.errors import UserError
from tasks.importing.state_files import list_state_files, read_state, rename_entries

STATE = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}


@pytest.mark.parametrize("ending", [".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".safetensors"])
def test_files_are_found_in_natural_order(tmp_path, ending):
    for name in ("epoch10", "epoch2", "epoch1"):
        (tmp_path / f"{name}{ending}").touch()
    (tmp_path / "log.txt").touch()
    found = [path.name for path in list_state_files(tmp_path)]
    assert found == [f"epoch1{ending}", f"epoch2{ending}", f"epoch10{ending}"]


def test_a_missing_folder_is_named_with_the_option(tmp_path):
    with pytest.raises(UserError, match=f"--dir {tmp_path}/none: folder not found. Set --dir"):
        list_state_files(tmp_path / "none")


def test_a_single_file_is_refused_with_the_pattern(tmp_path):
    for name in ("epoch1.pth", "last.pth", "epoch2.txt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"--dir {tmp_path} holds 1 files epoch\*.*\.pth.*at least 2.*--files"):
        list_state_files(tmp_path, "epoch*")


@pytest.mark.parametrize("content", [
    STATE, {"state_dict": STATE, "epoch": 3}, {"model": {"state_dict": STATE}}, {"model_state_dict": STATE},
])  # fmt: skip
def test_a_state_dict_is_taken_out_of_its_wrappers(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert read_state(tmp_path / "a.pth").keys() == STATE.keys()


@pytest.mark.parametrize("content, held", [({"epoch": 3, "lr": 0.1}, "entries epoch, lr"), ([1, 2], "a list")])
def test_a_file_without_tensors_is_refused_with_its_content(tmp_path, content, held):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"{tmp_path}/a\.pth holds no state dict but .*{held}.*model\.state_dict\(\)"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_truncated_file_is_named(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    save_file(STATE, path) if ending == ".safetensors" else torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=f"{path} is damaged.* --files PATTERN"):
        read_state(path)


def test_code_in_a_pickle_is_named_and_not_run(tmp_path, monkeypatch):
    class RunsCode:
        def __reduce__(self):
            return os.system, ("touch executed",)

    monkeypatch.chdir(tmp_path)
    torch.save({"model": STATE, "more": RunsCode()}, "a.pth")
    with pytest.raises(UserError, match=r"a\.pth is a pickle that needs code .*system.*model\.state_dict\(\)"):
        read_state(Path("a.pth"))
    assert not (tmp_path / "executed").exists()


def test_entries_get_the_names_of_the_network():
    known = ["model.fc.weight", "fc.bias", "layer.weight"]
    given = ["module.model.fc.weight", "module._orig_mod.fc.bias", "layer._orig_mod.weight", "module.unknown"]
    renamed = rename_entries(dict.fromkeys(given, torch.ones(1)), known, Path("a.pth"))
    assert list(renamed) == ["model.fc.weight", "fc.bias", "layer.weight", "module.unknown"]


def test_an_entry_with_and_without_a_prefix_is_refused():
    state = {"fc.bias": torch.zeros(1), "module.fc.bias": torch.zeros(1)}
    with pytest.raises(UserError, match=r"a\.pth holds the entry fc\.bias twice.*module\.fc\.bias"):
        rename_entries(state, ["fc.bias"], Path("a.pth"))
