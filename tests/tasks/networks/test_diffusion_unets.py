"""The UNets have the published size, generate last layers that act last, and refuse what does not fit."""

import pytest
import torch

from core.checkpoints.subset import resolve_subset
from core.runtime.errors import UserError
from tasks.networks.build import find_family, require_family
from tasks.networks.diffusion_unets import build_unet
from tasks.objectives.classification import Classification
from tasks.objectives.generation import Generation
from tests.pipeline.conftest import assert_names


def test_the_network_for_cifar10_has_the_parameters_of_the_paper():
    with torch.device("meta"):
        network = build_unet("ddpm_unet", channels=3, image_size=32).eval()
        assert network(torch.empty(2, 3, 32, 32), torch.zeros(2)).shape == (2, 3, 32, 32)
    assert sum(parameter.numel() for parameter in network.parameters()) == 35_746_307  # 35.7 million
    assert resolve_subset(network, "last_norms", 2).num_params == 512


def test_the_last_normalization_layers_are_the_last_ones_that_act():
    network, called = build_unet("ddpm_unet_small", channels=1, image_size=8).eval(), []
    for name, module in network.named_modules():
        if "norm" in name:
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    network(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    subset = resolve_subset(network, "last_norms", 3)
    assert [name for name in subset.names if name.endswith("weight")] == [f"{name}.weight" for name in called[-3:]]
    assert subset.num_params == 128


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"image_size": 7}, ["task.data.image_size=7", 2]),
        ({"pretrained": True}, ["task.model.pretrained"]),
        ({"options": {"groups": 3}}, ["task.model.options", "ddpm_unet_small"]),
        ({"options": {"width": 3}}, ["task.model.options", "width"]),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_in_one_sentence(arguments, told):
    with pytest.raises(UserError) as refused:
        build_unet("ddpm_unet_small", **{"channels": 1, "image_size": 8, **arguments})
    assert_names(str(refused.value), *told)


def test_a_unet_and_a_dataset_of_another_task_are_refused():
    assert find_family("ddpm_unet") is Generation
    with pytest.raises(UserError) as refused:
        require_family("ddpm_unet", Classification(10), "digits")
    assert_names(str(refused.value), "ddpm_unet", "digits", "generation")
