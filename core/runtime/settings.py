"""Compare the settings that an artifact was made with to the settings asked for now."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

MISSING = "(absent)"
MACHINE_SECTIONS = ("trainer", "scoring")


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("task.model.name", "resnet18") pairs, as one would type them on the command line."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by dotted name, as (stored value, asked value).

    A setting that is null equals an absent one, so files from before the option still match. Sections about the machine
    are compared where both sides have them: earlier versions did not record them, and only training asks for them.
    """
    one_sided = {name for name in MACHINE_SECTIONS if (name in stored) != (name in asked)}
    before, now = (
        dict(flatten({name: value for name, value in side.items() if name not in one_sided}))
        for side in (stored, asked)
    )
    names = [*before, *(name for name in now if name not in before)]
    return {
        name: (before.get(name, MISSING), now.get(name, MISSING)) for name in names if before.get(name) != now.get(name)
    }


def describe(differing: Mapping[str, tuple[Any, Any]], most: int = 6) -> str:
    """Word the differences for an error sentence: "task.seed=42 there, 43 here"."""
    shown = [f"{name}={there} there, {here} here" for name, (there, here) in list(differing.items())[:most]]
    more = len(differing) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def digest(settings: Mapping[str, Any]) -> str:
    """Return a short name for these settings, the same in every process."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
