"""Comparison of the settings stored in an artifact with the current settings."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields
from typing import Any, TypeVar

from core.runtime.content_hash import hash_json
from core.runtime.errors import UserError, suggest_names

Specification = TypeVar("Specification")

MISSING = "(absent)"
MACHINE_SECTIONS = ("trainer", "scoring")


def require_known(section: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UserError`, with the nearest known names, if a section of the configuration has an unknown setting."""
    known = list(known)
    for name in given:
        if name not in known:
            prefix = f"{section}." if section else ""
            suggested = suggest_names(name, (word for word in known if not word.startswith("_")))  # Hydra's own words
            raise UserError(f"{prefix}{name} is unknown ({suggested}). Remove it, or correct its name")


def build_section(make: type[Specification], section: str, config: Mapping[str, Any]) -> Specification:
    """Return the dataclass `make` with the settings of a section of the configuration.

    Raises:
        UserError: A setting is unknown or missing, or `make` refuses a value.
    """
    settings = {field.name: field for field in fields(make) if field.init}  # type: ignore[arg-type]  # a dataclass
    require_known(section, config, settings)
    for name, setting in settings.items():
        if name not in config and setting.default is NO_DEFAULT and setting.default_factory is NO_DEFAULT:
            raise UserError(f"{section}.{name} is missing. Set {section}.{name}=VALUE")
    return make(**config)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) pairs such as ("task.model.name", "resnet18"), named as on the command line."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def find_differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by dotted name, as (stored value, current value).

    A null setting equals an absent one, so files that are older than an option still match. The sections in
    `MACHINE_SECTIONS` are compared only if both sides have them, because older files lack them and only training
    commands set them.
    """
    one_sided = {name for name in MACHINE_SECTIONS if (name in stored) != (name in current)}
    before, now = (
        dict(flatten({name: value for name, value in side.items() if name not in one_sided}))
        for side in (stored, current)
    )
    names = [*before, *(name for name in now if name not in before)]
    return {
        name: (before.get(name, MISSING), now.get(name, MISSING)) for name in names if before.get(name) != now.get(name)
    }


def describe_differences(differing: Mapping[str, tuple[Any, Any]], most: int = 6) -> str:
    """Return up to `most` differences as text, such as "task.seed=42 stored, 43 now"."""
    shown = [f"{name}={before} stored, {now} now" for name, (before, now) in list(differing.items())[:most]]
    more = len(differing) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def hash_settings(settings: Mapping[str, Any]) -> str:
    """Return a hash of the settings, 12 hexadecimal digits, equal in every process."""
    return hash_json(settings)[:12]
