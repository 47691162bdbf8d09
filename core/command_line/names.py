"""Checks of the names in the configuration, and of the values that are no numbers, made before any work starts.

Hydra itself refuses an unknown name, unless it is added with a plus. Settings that nothing reads would look as if they
had an effect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from core.command_line.composition_error import CONFIGS
from core.runtime.errors import UserError
from core.runtime.settings import require_known

# The places that list the settings of each section: a file in configs/, and the section in it. Sections without an
# entry check their own settings, or take further arguments of the class that they name.
LISTED_IN: Mapping[str, Sequence[tuple[str, str]]] = {
    "": [("base", "")],
    "generation": [("base", "generation")],
    "evaluation": [("base", "evaluation")],
    "scoring": [("base", "scoring")],
    "task": [("task/common", "")],
    "task.collect": [("task/collect/steps", ""), ("task/collect/independent", "collect")],
}
# Settings that the choice of a group adds to a section.
CHOSEN = {"": ("task", "system", "trainer", "logger"), "task": ("model", "collect")}
TEXTS = ("output_dir", "task.data.dataset", "task.data.root", "task.model.name", "task.param.path", "system.name")
OPTIONAL_TEXTS = ("task.score_with",)
PATTERNS = ("task.param.subset", "evaluation.ood")  # a text, or a list of texts
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "mode": ("train", "test", "generate"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda"),
    "task.data.verify": (True, False),
    "task.model.pretrained": (True, False),
    "task.model.small_stem": (True, False, None),
}
# Sections of further settings, and those that may also be null.
SECTIONS = (
    "generation",
    "evaluation",
    "scoring",
    "trainer",
    "system",
    "system.autoencoder",
    "system.autoencoder_optimizer",
    "system.denoiser_optimizer",
    "system.sampler.scheduler",
    "system.schedule",
    "task",
    "task.data",
    "task.model",
    "task.optimizer",
    "task.param",
    "task.collect",
    "task.collect.optimizer",
)
WHOLE = ("generation", "evaluation", "scoring")  # sections of which no setting may be missing
OPTIONAL_SECTIONS = ("system.denoiser", "system.sampler", "task.scheduler", "task.model.options")


def check_names(cfg: DictConfig) -> None:
    """Check that every setting of the sections in `LISTED_IN` is one that the code reads.

    Raises:
        UserError: A setting is unknown, and the message suggests known ones; or one is missing.
    """
    for section, places in LISTED_IN.items():
        given = OmegaConf.select(cfg, section) if section else cfg
        if isinstance(given, DictConfig):
            known = {name for place in places for name in list_settings(*place)}
            require_known(section, map(str, given), known | set(CHOSEN.get(section, ())))
            if section in WHOLE and (missing := sorted(known - set(map(str, given)))):
                raise UserError(
                    f"{section}.{missing[0]} is missing, because an override replaces the section {section}. Remove "
                    f"this override, and set single settings such as {section}.{missing[0]}=VALUE"
                )


def list_settings(file: str, section: str) -> list[str]:
    """Return the names of the settings in a section of a configuration file; the whole file has an empty name."""
    content: Any = OmegaConf.load(CONFIGS / f"{file}.yaml")
    return [str(name) for name in (content[section] if section else content) if name not in ("defaults", "hydra")]


def check_sections(cfg: DictConfig) -> None:
    """Check that the sections at the top are sections, before values that refer to their settings are resolved.

    Raises:
        UserError: One of them is a single value.
    """
    sections: Any = OmegaConf.to_container(cfg, resolve=False)
    for name, value in sections.items():
        if (name in SECTIONS or name == "trainer") and value is not None and not isinstance(value, dict):
            advice = f", or set {name}=NAME to a file of configs/{name}" if (CONFIGS / name).is_dir() else ""
            raise UserError(
                f"{name}={value} is invalid: expected a section of settings, not one value. Remove it{advice}"
            )


def check_kinds(cfg: DictConfig) -> None:
    """Check the values that are texts or choices, and that sections hold settings.

    Raises:
        UserError: A value is of another kind.
    """
    for name in (*SECTIONS, *OPTIONAL_SECTIONS):
        given = OmegaConf.select(cfg, name)
        missing = given is None and (name in OPTIONAL_SECTIONS or not is_set(cfg, name))
        if not missing and not isinstance(given, DictConfig):
            raise UserError(f"{name}={show(given)} is invalid: expected settings. Set {name}.NAME=VALUE")
    for name in filter(lambda name: is_set(cfg, name), (*TEXTS, *OPTIONAL_TEXTS, *PATTERNS, *CHOICES)):
        given = OmegaConf.select(cfg, name)
        if name in PATTERNS and given is not None and not all(isinstance(word, str) for word in as_list(given)):
            raise UserError(f"{name}={show(given)} is invalid: expected a text or a list of texts. Set {name}=[TEXT]")
        if name in OPTIONAL_TEXTS and given is None:
            continue
        if name in (*TEXTS, *OPTIONAL_TEXTS) and not (isinstance(given, str) and given and given.isprintable()):
            raise UserError(f"{name}={show(given)} is invalid: expected a text. Set {name}=TEXT")
        if name in CHOICES and given not in CHOICES[name]:
            choices = list(map(show, CHOICES[name]))
            raise UserError(
                f"{name}={show(given)} is invalid: expected one of {', '.join(choices)}. Set {name}={choices[0]}"
            )


def is_set(cfg: DictConfig, name: str) -> bool:
    """Return whether the configuration has a setting of this dotted name, which may be null."""
    section, _, last = name.rpartition(".")
    parent = OmegaConf.select(cfg, section) if section else cfg
    return isinstance(parent, DictConfig) and last in parent


def as_list(value: Any) -> list[Any]:
    """Return the entries of a list of the configuration, or a list with the only value."""
    return list(value) if isinstance(value, ListConfig) else [value]


def show(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value) or "''"
