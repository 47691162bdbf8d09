"""Both ways to install name the same direct dependencies, all of them, in open ranges."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SOURCES = [
    *ROOT.glob("*.py"),
    *(path for folder in ("core", "tasks", "scripts") for path in (ROOT / folder).rglob("*.py")),
]
OURS = {"core", "tasks", "scripts", "task_training", "train_p_diff"}


def parse(lines: list[str]) -> dict[str, str]:
    """{name: version range}, without comments and empty lines."""
    requirements = [Requirement(line) for line in (line.split("#")[0].strip() for line in lines) if line]
    assert len({requirement.name for requirement in requirements}) == len(requirements), "a dependency is named twice"
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


@pytest.fixture(scope="module")
def requirements() -> dict[str, str]:
    return parse((ROOT / "requirements.txt").read_text().splitlines())


@pytest.fixture(scope="module")
def conda() -> dict[str, str]:
    """Everything under `dependencies`, conda's own entries and those under `pip` alike."""
    lines: list[str] = []
    for entry in OmegaConf.to_container(OmegaConf.load(ROOT / "environment.yml"))["dependencies"]:
        lines += entry["pip"] if isinstance(entry, dict) else [entry]
    return parse(lines)


def test_conda_and_pip_install_the_same(requirements, conda):
    assert {name: versions for name, versions in conda.items() if name not in ("python", "pip")} == requirements


def test_the_python_that_is_asked_for_is_the_one_that_is_known_to_work(conda):
    assert conda["python"] == ">=3.11" and sys.version_info >= (3, 11)


def test_ranges_are_open_upwards(requirements):
    closed = {
        name: versions for name, versions in requirements.items() if not versions.startswith(">=") or "," in versions
    }
    assert not closed


def test_the_tests_run_inside_the_ranges(requirements):
    for name, versions in requirements.items():
        assert Requirement(f"{name}{versions}").specifier.contains(
            importlib.metadata.version(name), prereleases=True
        ), name


def test_every_package_that_the_code_imports_is_named(requirements):
    distributions = importlib.metadata.packages_distributions()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for package in {module.split(".")[0] for module in modules} - OURS - set(sys.stdlib_module_names):
                names = {name.lower() for name in distributions.get(package, [package])}
                assert names & requirements.keys(), (
                    f"{path.relative_to(ROOT)} imports {package}, which requirements.txt does not name"
                )
