"""Export of generated models as a folder that loads without this project."""

import re
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from core.checkpoints.subset import flatten, unflatten
from core.publishing.export import write_folder
from core.runtime.errors import UserError
from tests.core.tiny import assert_same

SHARED = ["network.safetensors", "vectors.safetensors"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_full_state_dict_is_the_frozen_network_with_the_generated_subset(
    tmp_path, tiny_network, tiny_checkpoints, tiny_models
):
    images, original = torch.randn(5, 6), tiny_checkpoints.network
    write_folder(tiny_models, tmp_path / "generated", num_exported=3)
    for index in range(3):
        state = load_file(tmp_path / f"generated/00{index}.safetensors")
        vector_D = tiny_models.vectors_MD[index]
        expected = torch.func.functional_call(tiny_network, unflatten(vector_D, tiny_checkpoints.subset), (images,))
        fresh = torch.nn.Sequential(*tiny_network)
        fresh.load_state_dict(state)
        torch.testing.assert_close(fresh.eval()(images), expected, rtol=0, atol=0)
        assert torch.equal(flatten(fresh, tiny_checkpoints.subset), vector_D)
        assert_same(state, {**original, **unflatten(vector_D, tiny_checkpoints.subset)})
        fresh.load_state_dict(original)


@pytest.mark.parametrize("num_exported", [0, 2])
def test_the_folder_takes_one_network_one_row_per_model_and_the_chosen_state_dicts(tmp_path, tiny_models, num_exported):
    models = replace(tiny_models, vectors_MD=torch.randn(500, 60))
    write_folder(models, tmp_path / "generated", num_exported=num_exported)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "generated").iterdir()}
    states = [f"00{index}.safetensors" for index in range(num_exported)]
    assert sorted(sizes) == [*states, *SHARED]
    network_bytes = sum(tensor.nbytes for tensor in models.network.values())
    assert 0 < sizes["vectors.safetensors"] - 500 * 60 * 4 < 6000
    assert 0 < sizes["network.safetensors"] - network_bytes < 6000  # the header holds a hash of each tensor
    assert all(0 < sizes[name] - network_bytes < 2000 for name in states)


def test_state_dicts_are_numbered_so_that_they_sort(tmp_path, tiny_models):
    models = replace(tiny_models, vectors_MD=torch.randn(1001, 60))
    write_folder(models, tmp_path / "generated", num_exported=2)
    assert names_in(tmp_path / "generated") == ["0000.safetensors", "0001.safetensors", *SHARED]
    assert models.name_file(1000) == "1000.safetensors" and tiny_models.name_file(2) == "002.safetensors"


def test_an_earlier_export_is_replaced_as_a_whole(tmp_path, tiny_models):
    write_folder(tiny_models, tmp_path / "generated", num_exported=3, texts={"config.json": "{}"})
    (tmp_path / "generated.new").mkdir()
    (tmp_path / "generated.new" / "999.safetensors").write_text("left by a crash")
    write_folder(replace(tiny_models, seed=1), tmp_path / "generated", num_exported=1)
    assert names_in(tmp_path) == ["generated"]
    assert names_in(tmp_path / "generated") == ["000.safetensors", *SHARED]


def test_exporting_alters_neither_vectors_nor_checkpoints(tmp_path, tiny_checkpoints, tiny_models):
    before, fingerprint = tiny_models.vectors_MD.clone(), tiny_checkpoints.fingerprint
    write_folder(tiny_models, tmp_path / "generated", num_exported=3)
    assert torch.equal(tiny_models.vectors_MD, before)
    assert (
        replace(tiny_checkpoints).fingerprint == fingerprint
    )  # replace() makes a copy whose fingerprint is computed again.


def test_too_many_models_for_the_disk_are_refused_before_any_is_written(tmp_path, tiny_models, monkeypatch):
    network_bytes = sum(tensor.nbytes for tensor in tiny_models.network.values())
    needed = (1 + 2) * network_bytes + 3 * 60 * 4
    free = needed - 1
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("usage", "total used free")(0, 0, free))
    with pytest.raises(UserError, match=r"3 generated models, 2 of them .* GB, .* Set a smaller generation\.num_mod"):
        write_folder(tiny_models, tmp_path / "generated", num_exported=2)
    assert list(tmp_path.iterdir()) == []
    free = needed
    write_folder(tiny_models, tmp_path / "generated", num_exported=2)
    assert (tmp_path / "generated").is_dir()


def test_a_disk_that_fills_up_keeps_the_earlier_export(tmp_path, tiny_models, full_disk):
    write_folder(tiny_models, tmp_path / "generated", num_exported=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "generated").iterdir()}
    larger = replace(tiny_models, network={**tiny_models.network, "0.weight": torch.zeros(200, 200)})
    with full_disk(), pytest.raises(UserError, match="generated"):
        write_folder(larger, tmp_path / "generated", num_exported=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "generated").iterdir()} == before
    assert names_in(tmp_path) == ["generated"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, tiny_models):
    (tmp_path / "regular").write_text("in the way")
    folder = re.escape(str(tmp_path / "regular" / "generated"))
    with pytest.raises(UserError, match=rf"^cannot write the generated models to {folder} \(.+\)\. Set output_dir"):
        write_folder(tiny_models, tmp_path / "regular" / "generated", num_exported=1)


def test_texts_and_the_second_name_are_written_with_the_models_and_cost_no_space(tmp_path, tiny_models):
    folder = tmp_path / "generated"
    write_folder(tiny_models, folder, num_exported=1, texts={"README.md": "card"}, hub=True)
    assert (folder / "README.md").read_text() == "card"
    assert (folder / "000.safetensors").samefile(folder / "model.safetensors")
    write_folder(tiny_models, folder, num_exported=0)
    assert names_in(folder) == SHARED


def test_the_first_model_is_copied_if_the_file_system_has_no_hard_links(tmp_path, tiny_models, monkeypatch):
    def refuse(*_):
        raise OSError("not on this file system")

    monkeypatch.setattr("os.link", refuse)
    write_folder(tiny_models, tmp_path / "generated", num_exported=1, hub=True)
    first, second = (load_file(tmp_path / "generated" / name) for name in ("000.safetensors", "model.safetensors"))
    assert_same(first, second)


def test_files_of_others_in_the_folder_are_kept_beside_it(tmp_path, tiny_models, caplog):
    folder = tmp_path / "generated"
    write_folder(tiny_models, folder, num_exported=1)
    (folder / "mine.txt").write_text("mine")
    write_folder(tiny_models, folder, num_exported=0)
    assert names_in(folder) == SHARED
    assert (tmp_path / "generated.1/mine.txt").read_text() == "mine"
    assert "mine.txt" in caplog.text and "generated.1" in caplog.text
