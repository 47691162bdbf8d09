"""The packages that the parts need, looked up without importing them, so that this file runs where they are missing."""

import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_NEEDED = ("pytest-xdist", "selenium", "ruff", "mypy", "codespell", "pre-commit")  # only the whole suite uses them
ANTLR = "antlr4-python3-runtime==4.9.3"  # the series that hydra-core and omegaconf need


def missing_packages() -> dict[str, str]:
    """Return {requirement: what is wrong} for the packages that the parts need and that are not there."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    wanted = [re.split("(>=|==)", line) for line in [*lines, ANTLR] if line]
    wrong = {}
    for name, relation, lowest in wanted:
        if name in NOT_NEEDED:
            continue
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong[f"{name}{relation}{lowest}"] = "missing"
            continue
        if numbers(found) < numbers(lowest) or (relation == "==" and numbers(found)[:2] != numbers(lowest)[:2]):
            wrong[f"{name}{relation}{lowest}"] = f"found {found}"
    return wrong


def numbers(version: str) -> list[int]:
    """Return the release of a version, "2.11.0+cu130" as [2, 11, 0]."""
    return [int(number) for number in re.findall(r"\d+", re.split(r"[+a-z]", version)[0])]


def advice(wrong: dict[str, str]) -> str:
    """Name each missing package, and how to bring its wheel to a machine without a network."""
    wheels = " ".join(f"'{requirement}'" for requirement in wrong if requirement != ANTLR)
    python, pip = sys.executable, f"python{sys.version_info.major}.{sys.version_info.minor} -m pip"
    named = ", ".join(f"{requirement} ({why})" for requirement, why in wrong.items())
    lines = [
        f"error: {python} lacks packages: {named}",
        "Nothing is installed from here. Make the wheels where there is a network, bring the folder, and install it:",
    ]
    if wheels:
        lines.append(f"  {pip} download --no-deps --only-binary=:all: --dest wheels {wheels}")
    if ANTLR in wrong:
        lines.append(f"  {pip} wheel --no-deps --wheel-dir wheels {ANTLR} # no wheel is published: build it")
    return "\n".join([*lines, f"  {python} -m pip install --no-index --no-deps wheels/*.whl"])
