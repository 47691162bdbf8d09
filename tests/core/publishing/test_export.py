"""Export of generated vectors as full networks that load without this project."""

import re
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from core.checkpoints.subset import flatten, unflatten
from core.publishing import export
from core.publishing.export import export_models
from core.runtime.errors import UserError


@pytest.fixture
def vectors_MD():
    return torch.randn(3, 60)


def test_a_file_is_the_frozen_network_with_the_generated_subset(tmp_path, tiny_network, tiny_checkpoints, vectors_MD):
    images, original = torch.randn(5, 6), tiny_checkpoints.network
    export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=0)
    for index, path in enumerate(sorted((tmp_path / "generated").iterdir())):
        state = load_file(path)
        assert state.keys() == original.keys()
        expected = torch.func.functional_call(
            tiny_network, unflatten(vectors_MD[index], tiny_checkpoints.subset), (images,)
        )
        fresh = torch.nn.Sequential(*tiny_network)
        fresh.load_state_dict(state)
        torch.testing.assert_close(fresh.eval()(images), expected, rtol=0, atol=0)
        assert torch.equal(flatten(fresh, tiny_checkpoints.subset), vectors_MD[index])
        assert all(
            torch.equal(state[name], original[name]) for name in original if name not in tiny_checkpoints.subset.names
        )
        fresh.load_state_dict(original)


def test_files_are_numbered_so_that_they_sort(tmp_path, tiny_checkpoints, monkeypatch):
    monkeypatch.setattr(export, "save_file", lambda state, path, header: path.touch())
    export_models(torch.randn(1001, 60), tiny_checkpoints, tmp_path / "generated", seed=0)
    names = [path.name for path in sorted((tmp_path / "generated").iterdir())]
    assert names == [f"{index:04}.safetensors" for index in range(1001)]


def test_an_earlier_export_is_replaced_as_a_whole(tmp_path, tiny_checkpoints, vectors_MD):
    export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=0)
    (tmp_path / "generated.new").mkdir()
    (tmp_path / "generated.new" / "999.safetensors").write_text("left by a crash")
    export_models(vectors_MD[:1], tiny_checkpoints, tmp_path / "generated", seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["generated"]
    assert [path.name for path in (tmp_path / "generated").iterdir()] == ["000.safetensors"]


def test_exporting_alters_neither_vectors_nor_checkpoints(tmp_path, tiny_checkpoints, vectors_MD):
    before, fingerprint = vectors_MD.clone(), tiny_checkpoints.fingerprint
    export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=0)
    assert torch.equal(vectors_MD, before)
    assert (
        replace(tiny_checkpoints).fingerprint == fingerprint
    )  # replace() makes a copy whose fingerprint is computed again.


def test_too_many_models_for_the_disk_are_refused_before_any_is_written(
    tmp_path, tiny_checkpoints, vectors_MD, monkeypatch
):
    needed = 3 * sum(tensor.nbytes for tensor in tiny_checkpoints.network.values())
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("usage", "total used free")(0, 0, needed - 1))
    with pytest.raises(UserError, match=r"3 exported networks need .* GB, .* Set a smaller generation\.num_models"):
        export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_the_earlier_export(tmp_path, tiny_checkpoints, vectors_MD, full_disk):
    export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "generated").iterdir()}
    tiny_checkpoints.network["0.weight"] = torch.zeros(200, 200)
    with full_disk(), pytest.raises(UserError, match="generated"):
        export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "generated").iterdir()} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path, tiny_checkpoints, vectors_MD):
    (tmp_path / "regular").write_text("in the way")
    folder = re.escape(str(tmp_path / "regular" / "generated"))
    with pytest.raises(UserError, match=rf"^cannot write the generated models to {folder} \(.+\)\. Set output_dir"):
        export_models(vectors_MD, tiny_checkpoints, tmp_path / "regular" / "generated", seed=0)


def test_texts_and_the_second_name_are_written_with_the_models_and_cost_no_space(
    tmp_path, tiny_checkpoints, vectors_MD
):
    export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=0, texts={"README.md": "card"}, hub=True)
    first, second = (tmp_path / "generated" / name for name in ("000.safetensors", "model.safetensors"))
    assert (tmp_path / "generated" / "README.md").read_text() == "card" and first.samefile(second)
    export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=0)
    assert [path.name for path in sorted((tmp_path / "generated").iterdir())] == [
        f"00{index}.safetensors" for index in range(3)
    ]


def test_the_first_model_is_copied_if_the_file_system_has_no_hard_links(
    tmp_path, tiny_checkpoints, vectors_MD, monkeypatch
):
    def refuse(*_):
        raise OSError("not on this file system")

    monkeypatch.setattr("os.link", refuse)
    export_models(vectors_MD, tiny_checkpoints, tmp_path / "generated", seed=0, hub=True)
    first, second = (load_file(tmp_path / "generated" / name) for name in ("000.safetensors", "model.safetensors"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_files_of_others_in_the_folder_are_kept_beside_it(tmp_path, tiny_checkpoints, vectors_MD, caplog):
    folder = tmp_path / "generated"
    export_models(vectors_MD, tiny_checkpoints, folder, seed=0)
    (folder / "mine.txt").write_text("mine")
    export_models(vectors_MD[:1], tiny_checkpoints, folder, seed=0)
    assert [path.name for path in folder.iterdir()] == ["000.safetensors"]
    assert (tmp_path / "generated.1/mine.txt").read_text() == "mine"
    assert "mine.txt" in caplog.text and "generated.1" in caplog.text
