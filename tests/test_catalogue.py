"""Tests that datasets work with the networks for their task, and that experiments have the published settings."""

import csv
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from core.checkpoints.subset import resolve_subset
from tasks.data.datasets import DATASETS
from tasks.data.splits import DataOptions
from tasks.networks.build import build_classifier, build_from_spec, build_network
from tasks.specification import TaskSpec

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(path.stem for path in (CONFIGS / "task/model").glob("*.yaml"))
PAPER_MODELS = ["resnet18", "resnet50", "vit_tiny", "vit_base", "convnext_tiny", "convnext_base"]
FACTS = {
    "digits": (10, 1, 16),
    "mnist": (10, 1, 28),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "svhn": (10, 3, 32),
    "stl10": (10, 3, 96),
}
PHOTOGRAPHS = {"flowers102": 102, "pets": 37, "food101": 101, "imagenet": 1000, "imagefolder": 5}
FACTS |= {name: (num_classes, 3, 224) for name, num_classes in PHOTOGRAPHS.items()}
SEGMENTATION = {  # task -> dataset, network, classes, image size, D of its subset
    "voc_fcn_resnet50": ("voc_segmentation", "fcn_resnet50", 21, 480, 1024),
    "coco_voc_fcn_resnet50": ("coco_segmentation", "fcn_resnet50", 21, 480, 1024),
    "digits_segmentation": ("digit_scenes_segmentation", "fcn_small", 11, 64, 240),
}
DETECTION = {  # task -> dataset, network, classes, image size, D of its subset
    "digits_detection": ("digit_scenes_detection", "fcos_small", 11, 64, 256),
    "coco_fasterrcnn": ("coco_detection", "fasterrcnn_resnet50_fpn", 91, 800, 5120),
    "coco_fcos": ("coco_detection", "fcos_resnet50_fpn", 91, 800, 1024),
}
GENERATION = {  # task -> dataset, network, channels, image size, D of its subset
    "digits_generation": ("digits_generation", "ddpm_unet_small", 1, 8, 128),
    "cifar10_ddpm": ("cifar10_generation", "ddpm_unet", 3, 32, 512),
}
UNPUBLISHED = {
    "digits_generation",
    "digits_detection",
    "digits_lora",
    "digits_segmentation",
    "paper",
    "cifar100_resnet18_k200",
    "whole_network",
    "ablation",
    "small_architectures",
} | {f"digits_{model}" for model in PAPER_MODELS}
SETTINGS = list(csv.DictReader((Path(__file__).with_name("published_settings.csv")).open(newline="")))


def compose_config(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("base", overrides=list(overrides))
    OmegaConf.resolve(cfg)
    return cfg


def list_arguments(cfg):
    """Return the arguments of the builder for the network of a configuration, without its adapters and weights."""
    model = OmegaConf.to_container(cfg.task.model, resolve=True)
    return {name: value for name, value in model.items() if name != "lora"} | {"pretrained": False}


def resolve_configured(network, cfg):
    param = TaskSpec.from_config(OmegaConf.to_container(cfg.task)).param
    return resolve_subset(network, param.subset, param.count)


def test_every_dataset_has_a_task_file_and_facts_here():
    assert set(DATASETS) == set(FACTS) | {
        dataset for dataset, *_ in (*SEGMENTATION.values(), *DETECTION.values(), *GENERATION.values())
    }
    assert all((CONFIGS / f"task/{name}.yaml").is_file() for name in (*FACTS, *SEGMENTATION, *DETECTION, *GENERATION))
    assert set(PAPER_MODELS) <= set(MODELS)


@pytest.mark.parametrize("task", SEGMENTATION)
def test_a_task_of_segmentation_composes_and_builds(task):
    dataset, name, num_classes, image_size, num_params = SEGMENTATION[task]
    cfg = compose_config(f"task={task}", "task.model.pretrained=false", "task.epochs=2")
    assert (cfg.task.data.dataset, cfg.task.model.name) == (dataset, name)
    assert cfg.task.param.path == f"param_data/{dataset}_{name}/checkpoints.safetensors"
    plain = OmegaConf.to_container(cfg.task)
    plain["model"]["options"].pop("weights_backbone", None)  # the weights would be downloaded
    spec = TaskSpec.from_config(plain)
    with torch.device("meta"):
        network = build_from_spec({"num_classes": num_classes, "channels": 3, "image_size": image_size}, spec.model)
        assert network.eval()(torch.empty(1, 3, 64, 64)).shape == (1, num_classes, 64, 64)
    subset = resolve_configured(network, cfg)
    assert subset.num_params == num_params and subset.names[-1] == "classifier.1.bias"
    scheduler = vars(spec.make_scheduler(spec.make_optimizer(network.parameters())))
    assert spec.epochs == 2 in (scheduler.get("T_max"), scheduler.get("total_iters"))


def test_the_settings_of_the_paper_for_segmentation_start_from_published_weights():
    task = compose_config("task=coco_voc_fcn_resnet50").task
    assert task.model.pretrained and task.epochs == 0 and (task.param.subset, task.param.count) == ("last_norms", 1)


@pytest.mark.parametrize("model", PAPER_MODELS)
@pytest.mark.parametrize("dataset", FACTS)
def test_every_dataset_of_classes_works_with_every_architecture(dataset, model):
    cfg = compose_config(f"task={dataset}", f"task/model={model}")
    assert cfg.task.data.dataset == dataset and cfg.task.param.path.startswith(
        f"param_data/{dataset}_{cfg.task.model.name}/"
    )
    assert cfg.output_dir == f"outputs/{dataset}_{cfg.task.model.name}/ae_ddpm"
    num_classes, channels, size = FACTS[dataset]
    with torch.device("meta"):
        network = build_classifier(
            **list_arguments(cfg), num_classes=num_classes, channels=channels, image_size=size
        ).eval()
        assert network(torch.empty(1, channels, size, size)).shape == (1, num_classes)
    subset = resolve_configured(network, cfg)
    assert (
        subset.num_params
        == {
            "resnet18": 2048,
            "resnet50": 5120,
            "vit_tiny": 768,
            "vit_base": 3072,
            "convnext_tiny": 3072,
            "convnext_base": 4096,
        }[model]
    )


@pytest.mark.parametrize("task", DETECTION)
def test_every_detection_task_has_a_detector_and_its_subset(task):
    cfg = compose_config(f"task={task}")
    dataset, name, num_classes, size, num_params = DETECTION[task]
    assert (cfg.task.data.dataset, cfg.task.model.name) == (dataset, name)
    with torch.device("meta"):
        network = build_network(**list_arguments(cfg), num_classes=num_classes, channels=3, image_size=size)
    assert resolve_configured(network, cfg).num_params == num_params


@pytest.mark.parametrize("task", GENERATION)
def test_every_task_of_generation_has_a_unet_and_its_subset(task):
    cfg = compose_config(f"task={task}")
    dataset, name, channels, size, num_params = GENERATION[task]
    assert (cfg.task.data.dataset, cfg.task.model.name) == (dataset, name)
    with torch.device("meta"):
        network = build_network(**list_arguments(cfg), num_classes=10, channels=channels, image_size=size)
    assert resolve_subset(network, cfg.task.param.subset, cfg.task.param.count).num_params == num_params


SMALL = {"resnet18": 512, "resnet50": 640, "vit_tiny": 192, "vit_base": 384, "convnext_tiny": 512, "convnext_base": 768}


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_the_small_version_of_an_architecture_has_its_name_and_fewer_parameters_to_generate(model):
    cfg, full = compose_config(f"experiment=digits_{model}"), compose_config(f"task/model={model}")
    assert cfg.task.model.name == full.task.model.name and cfg.task.scheduler.T_max == cfg.task.epochs
    with torch.device("meta"):
        network = build_classifier(**list_arguments(cfg), num_classes=10, channels=1, image_size=16)
    assert resolve_configured(network, cfg).num_params == SMALL[model]


@pytest.mark.parametrize("dataset", FACTS)
def test_the_option_task_data_dataset_changes_the_paths(dataset):
    cfg = compose_config(f"task.data.dataset={dataset}")
    assert (
        cfg.task.param.path == f"param_data/{dataset}_resnet18/checkpoints.safetensors"
        and cfg.output_dir == f"outputs/{dataset}_resnet18/ae_ddpm"
    )


@pytest.mark.parametrize("published", SETTINGS, ids=lambda row: row["experiment"])
def test_an_experiment_has_the_published_settings(published):
    cfg = compose_config(f"experiment={published['experiment']}")
    task, system = cfg.task, cfg.system

    def number(name):
        return float(published[name])

    assert (task.data.dataset, task.model.name, task.model.pretrained) == (
        published["dataset"],
        published["timm"],
        True,
    )
    published_colors = [[float(value) for value in published[part].split()] for part in ("mean", "std")]
    assert [list(part) for part in DataOptions(**task.data).choose_colors(([0, 0, 0], [1, 1, 1]))] == published_colors
    assert (task.epochs, task.data.image_size, task.param.k, cfg.generation.num_models) == (
        number("epochs"),
        number("image_size"),
        number("k"),
        200,
    )
    if task.epochs:
        assert (task.optimizer.lr, task.optimizer.weight_decay, task.batch_size) == (
            number("lr"),
            number("weight_decay"),
            number("batch"),
        )
    collect = task.collect
    assert (collect.optimizer.lr, collect.optimizer.weight_decay, collect.batch_size) == (
        number("collect_lr"),
        number("collect_weight_decay"),
        number("collect_batch"),
    )
    assert str(collect.every) == published["collect_every"]
    assert (system.autoencoder_steps, system.autoencoder_optimizer.lr) == (number("ae_steps"), number("ae_lr"))
    assert (system.diffusion_steps, system.denoiser_optimizer.lr) == (number("diffusion_steps"), number("diffusion_lr"))
    assert system.batch_size == number("batch_p_diff")
    assert (system.autoencoder.input_noise, system.autoencoder.latent_noise) == (
        number("param_noise"),
        number("latent_noise"),
    )
    assert (list(system.autoencoder.channels), system.sampler.num_steps) == ([64, 128, 256, 256, 32], 1000)


def test_every_experiment_file_has_published_settings_or_is_listed_here():
    checked = {row["experiment"] for row in SETTINGS}
    assert {path.stem for path in (CONFIGS / "experiment").glob("*.yaml")} == checked | UNPUBLISHED
    assert len(checked) == 42
