"""One-line explanations of Hydra's errors about command-line overrides and configuration files."""

import difflib
import re
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from core.runtime.provenance import ROOT

CONFIGS = ROOT / "configs"
# Files that other configurations build on; they are no choices by themselves.
BASES = {"task": ("common", "photographs"), "experiment": ("paper", "small_architectures")}


def is_group(name: str) -> bool:
    """Return whether `name`, such as "task/model", is a configuration group: a folder of files to choose from."""
    return bool(name) and CONFIGS.joinpath(name).is_dir()


def explain_composition_error(error: Exception, overrides: Sequence[str]) -> str:
    """Return one line that names the invalid override, the values that are possible, and what to set.

    Args:
        error: Raised by Hydra while it composes the configuration.
        overrides: The words of the command line.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if is_group(group):
            return _unknown_choice(group, choice, error.options or ())
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override}. Write NAME=VALUE, "
            "or 'NAME=\"VALUE\"' for a value with special characters such as commas and ="
        )
    if several := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", str(error)):
        name = several[1].partition("=")[0]
        return f"{several[1]} has several values. Add -m to run the command for each value, or set {name} to one value"
    if isinstance(error.__cause__, OmegaConfBaseException) and str(error).startswith("Could not override"):
        return _unknown_name(error.__cause__, overrides)
    if isinstance(error, ValueError):  # Hydra does not name the override here
        for group, value in _group_choices(overrides):
            if not isinstance(value, str | list):
                return _unknown_choice(group, "null" if value is None else value)
    return _in_one_line(error)


def _unknown_choice(group: str, choice: object, options: Iterable[str] = ()) -> str:
    options = options or sorted(path.stem for path in CONFIGS.joinpath(group).glob("*.yaml"))
    usable = [option for option in options if option not in BASES.get(group, ())]
    return f"{group}={choice} is unknown. Set {group} to one of {', '.join(usable)}"


def _unknown_name(error: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    """Explain the override of a setting that the configuration does not have."""
    name = str(error.full_key)
    override = next((word for word in overrides if re.match(rf"{re.escape(name)}[.=]", word)), name)
    if "/" in name:
        groups = sorted(str(folder.relative_to(CONFIGS)) for folder in CONFIGS.rglob("*") if folder.is_dir())
        return f"{override} is unknown. Use one of the groups {', '.join(groups)}"
    section, _, _ = name.rpartition(".")
    parent = error.parent_node
    known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
    if parent is None or not known:
        return f"{override} is unknown, because {section} is a single value. Set {section}=VALUE"
    target = parent.get("_target_")
    names = [key for key in known if key not in ("hydra", "_target_", "_partial_")]
    line = f"{override} is unknown. Use one of the settings {f'of {section}: ' if section else ''}{', '.join(names)}"
    if nearest := difflib.get_close_matches(name.rpartition(".")[2], names, n=1):
        line += f". The nearest name is {section}.{nearest[0]}".replace(" .", " ")
    return line + (f". Use +{override} for another argument of {target}" if target else "")


def _group_choices(overrides: Sequence[str]) -> Iterable[tuple[str, object]]:
    """Yield (group, value) of every override that chooses a file of a configuration group."""
    for override in OverridesParser.create().parse_overrides([word for word in overrides if "=" in word]):
        if is_group(override.key_or_group):
            yield override.key_or_group, override.value()


def _in_one_line(error: Exception) -> str:
    """Return Hydra's own text without line breaks and without its list of search paths."""
    told = str(error) or str(error.__cause__ or type(error).__name__)
    words = " ".join(told.partition("Config search path:")[0].split())
    return f"invalid configuration: {words.rstrip('.')}. Check the NAME=VALUE arguments and the files in configs/"
