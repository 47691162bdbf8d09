"""The two files of generated models: what they hold, and how they are read again."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from core.checkpoints.subset import unflatten
from core.publishing.generated_models import GeneratedModels
from core.runtime.artifacts import save_artifact
from core.runtime.errors import UserError
from tests.core.tiny import assert_same, damaged_copies


def test_the_two_files_give_back_every_model(tmp_path, tiny_models):
    tiny_models.save(tmp_path)
    read = GeneratedModels.load(tmp_path)
    assert (read.subset, read.identity) == (tiny_models.subset, {**tiny_models.identity, "num_models": 3})
    assert read.identity == {"seed": 7, "generator": "0123456789abcdef", "num_models": 3}
    for number in range(3):
        rows = unflatten(tiny_models.vectors_MD[number], tiny_models.subset)
        assert_same(read.state_dict(number), {**tiny_models.network, **rows})


def test_other_programs_read_the_network_and_the_place_of_each_tensor(tmp_path, tiny_models):
    tiny_models.save(tmp_path)
    assert_same(load_file(tmp_path / "network.safetensors"), tiny_models.network)
    with safe_open(tmp_path / "vectors.safetensors", framework="pt") as file:
        vectors_MD, metadata = file.get_tensor("vectors"), json.loads(file.metadata()["metadata"])
    assert vectors_MD.dtype == torch.float32 and torch.equal(vectors_MD, tiny_models.vectors_MD)
    assert (metadata["seed"], metadata["indices"]) == (7, [0, 1, 2])
    assert metadata["tensors"] == [
        {"name": "1.weight", "shape": [14], "start": 0, "stop": 14},
        {"name": "1.bias", "shape": [14], "start": 14, "stop": 28},
        {"name": "4.weight", "shape": [16], "start": 28, "stop": 44},
        {"name": "4.bias", "shape": [16], "start": 44, "stop": 60},
    ]


def test_a_saved_state_dict_is_recognized_by_its_header_and_all_its_bytes(tmp_path, tiny_models):
    tiny_models.vectors_MD[1, 5] = float("nan")
    path = tmp_path / "001.safetensors"
    assert not tiny_models.is_saved(1, path)
    tiny_models.save_state_dict(1, path)
    assert tiny_models.is_saved(1, path)
    assert not tiny_models.is_saved(2, path) and not replace(tiny_models, seed=8).is_saved(1, path)
    changed = tiny_models.vectors_MD.clone()
    changed[1, 59] += 1e-6
    assert not replace(tiny_models, vectors_MD=changed).is_saved(1, path)
    network = {**tiny_models.network, "5.bias": tiny_models.network["5.bias"].double()}
    assert not replace(tiny_models, network=network).is_saved(1, path)
    path.write_text("something else")
    assert not tiny_models.is_saved(1, path)


@pytest.mark.parametrize("name", ["network.safetensors", "vectors.safetensors"])
def test_a_missing_or_damaged_file_is_named(tmp_path, tiny_models, name):
    tiny_models.save(tmp_path)
    for _, content in damaged_copies(tmp_path / name):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            GeneratedModels.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name} not found\. .*mode=generate"):
        GeneratedModels.load(tmp_path)


@pytest.mark.parametrize("left", [["0.weight", "4.weight"], ["1.weight", "1.bias", "4.weight"]])
def test_a_network_that_lacks_a_generated_tensor_is_refused(tmp_path, tiny_models, left):
    tiny_models.save(tmp_path)
    network = {name: tiny_models.network[name] for name in left}
    save_artifact(tmp_path / "network.safetensors", "network", network, metadata={})
    with pytest.raises(UserError, match=r"vectors of shape \(3, 60\) .* do not fit the network"):
        GeneratedModels.load(tmp_path)


def test_a_network_with_other_shapes_is_refused(tiny_models):
    with pytest.raises(UserError, match="do not fit the network"):
        replace(tiny_models, network={**tiny_models.network, "4.bias": torch.ones(15)})
