"""The check that all packages are installed; it imports none of them, so that it also runs if some are missing."""

import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The checks of a GPU machine do not use these packages.
NOT_NEEDED = ("pytest-xdist", "selenium", "ruff", "mypy", "codespell", "pre-commit")
ANTLR = "antlr4-python3-runtime==4.9.3"  # the series that hydra-core and omegaconf require


def find_missing_packages() -> dict[str, str]:
    """Return {requirement: "missing" or "found <version>"} for packages that are missing or have another version."""
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
        release, required = parse_release(found), parse_release(lowest)
        if release < required or (relation == "==" and release[:2] != required[:2]):
            wrong[f"{name}{relation}{lowest}"] = f"found {found}"
    return wrong


def parse_release(version: str) -> list[int]:
    """Return the numbers of a version, for example [2, 11, 0] for "2.11.0+cu130"."""
    return [int(number) for number in re.findall(r"\d+", re.split(r"[+a-z]", version)[0])]


def explain_missing(wrong: dict[str, str]) -> str:
    """Return an error that names each missing package and the commands that install it without a network."""
    wheels = " ".join(f"'{requirement}'" for requirement in wrong if requirement != ANTLR)
    python, pip = sys.executable, f"python{sys.version_info.major}.{sys.version_info.minor} -m pip"
    named = ", ".join(f"{requirement} ({why})" for requirement, why in wrong.items())
    lines = [
        f"error: missing packages for {python}: {named}",
        "This check installs nothing. Run the first commands on a machine with a network, copy the folder wheels here,",
        "then run the last command here:",
    ]
    if wheels:
        lines.append(f"  {pip} download --no-deps --only-binary=:all: --dest wheels {wheels}")
    if ANTLR in wrong:
        lines.append(f"  {pip} wheel --no-deps --wheel-dir wheels {ANTLR} # builds the wheel, since none is published")
    return "\n".join([*lines, f"  {python} -m pip install --no-index --no-deps wheels/*.whl"])
