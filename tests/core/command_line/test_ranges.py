"""Every number of the configuration has a range, and values outside it are refused."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from core.command_line.ranges import RANGES, Range, check_ranges
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT

CHECKED_BY_CLASSES = (
    "system.autoencoder.",
    "system.denoiser.",
    "system.schedule.beta",
    "system.sampler.scheduler.",
)
CHECKED_BY_MODULES = {"task.collect.every"}
CHECKED_BY_OPTIMIZERS = ("momentum", "gamma", "T_max")


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("base", overrides=list(overrides))


def refusal(*overrides: str) -> str:
    """Return the error message of `check_ranges`."""
    with pytest.raises(UserError) as error:
        check_ranges(configuration(*overrides))
    return str(error.value)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("task.batch_size=0", "a whole number of at least 1"),
        ("task.batch_size=abc", "a whole number of at least 1"),
        ("task.batch_size=null", "a whole number of at least 1"),
        ("task.epochs=1.5", "a whole number of at least 0"),
        ("task.epochs=-1", "a whole number of at least 0"),
        ("task.data.image_size=-3", "a whole number of at least 1, or null"),
        ("task.data.num_workers=True", "a whole number between 0 and 256, or auto"),
        ("task.data.num_workers=1000", "a whole number between 0 and 256, or auto"),
        ("scoring.cache_bytes=much", "a number of at least 0, or auto"),
        ("task.warmup_steps=0", "a whole number of at least 1, or null"),
        ("task.gradient_clip=0", "a number above 0, or null"),
        ("task.data.val_fraction=0", "a number between 0 and 1"),
        ("task.data.val_fraction=1", "a number between 0 and 1"),
        ("task.optimizer.lr=fast", "a number of at least 0"),
        ("seed=1.5", "a whole number"),
        ("generation.num_models=0", "a whole number of at least 1"),
        ("evaluation.noise=0.1", "a list of numbers of at least 0"),
        ("evaluation.noise=[0.1, -0.1]", "a list of numbers of at least 0"),
        ("evaluation.finetune_steps=0", "a list of whole numbers of at least 1, or one number"),
        ("evaluation.finetune_steps=[5, 0]", "a list of whole numbers of at least 1, or one number"),
        ("system.ema_decay=2", "a number between 0 and 1, or null"),
        ("system.batch_size=1", "a whole number of at least 2"),
        ("system.autoencoder_steps=0", "a whole number of at least 1"),
        ("system.diffusion_steps=0", "a whole number of at least 1"),
        ("task.param.k=1", "a whole number of at least 2"),
    ],
)
def test_a_number_outside_its_range_is_named_with_what_was_expected(override, expected):
    assert refusal(override) == f"{override} is invalid: expected {expected}"


@pytest.mark.parametrize("runs", [0, 1, 2.5, "many"])
def test_too_few_networks_of_independent_seeds_are_named_before_k_that_follows_them(runs):
    sentence = refusal("task/collect=independent", f"task.collect.runs={runs}")
    assert sentence.startswith(f"task.collect.runs={runs} is invalid: ") and sentence.endswith("at least 2")


def test_nan_is_in_no_range():
    assert not Range(whole=False).admits(float("nan"))


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "evaluation.noise=[]",
        "evaluation.finetune_steps=5",
        "evaluation.finetune_steps=[]",
        "task.data.image_size=null",
        "task.optimizer.lr=1",
        "system.ema_decay=1",
        "scoring.cache_bytes=inf",
        "scoring.batch_size=auto",
        "task.data.num_workers=3",
        "system=vae",
    ],
)
def test_the_ends_of_a_range_and_what_is_not_there_are_admitted(override):
    check_ranges(configuration(override))


def find_numbers(node: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of all numbers in a configuration."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from find_numbers(value, f"{name}.{key}" if name else str(key))
    elif type(node) in (int, float):
        yield name


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in (ROOT / "configs/experiment").glob("*.yaml")} - {"paper"})
)  # other experiments build on paper, which is incomplete alone
def test_every_number_of_every_experiment_is_in_its_range(name):
    check_ranges(configuration(f"experiment={name}"))


def test_every_number_that_can_be_typed_has_a_range():
    typed = set()
    for overrides in ([], ["task=cifar10"], ["task/collect=independent"]):
        typed |= set(find_numbers(OmegaConf.to_container(configuration(*overrides), resolve=True)))
    typed = {
        name
        for name in typed
        if name.split(".")[0] in ("seed", "task", "system", "generation", "evaluation", "scoring")
    }
    left = typed - set(RANGES) - CHECKED_BY_MODULES
    left = {
        name for name in left if not name.startswith(CHECKED_BY_CLASSES) and not name.endswith(CHECKED_BY_OPTIMIZERS)
    }
    assert not left
    others = {
        "task.data.image_size",
        "task.data.mean",
        "task.data.std",
        "task.warmup_steps",
        "task.gradient_clip",
        "task.model.lora.rank",
        "task.model.lora.alpha",
        "evaluation.noise",
        "evaluation.finetune_steps",
        "task.data.num_workers",
        "scoring.batch_size",
        "scoring.cache_bytes",
    }  # their defaults are not numbers: null, a list or a word
    assert set(RANGES) <= typed | others, "RANGES names a setting that does not exist"
