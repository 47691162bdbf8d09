"""Tests that the only list of dependencies is complete, and that pip, conda and the project metadata read it."""

import ast
import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SOURCES = [
    *ROOT.glob("*.py"),
    *(path for folder in ("core", "tasks", "scripts") for path in (ROOT / folder).rglob("*.py")),
]
LISTS = ("requirements.txt", "requirements-extras.txt")
OWN_PACKAGES = {"core", "tasks", "scripts", "task_training", "train_p_diff"}


def parse_requirements(lines: list[str]) -> dict[str, str]:
    """Return {name: version range}, without comments and empty lines."""
    requirements = [Requirement(line) for line in (line.split("#")[0].strip() for line in lines) if line]
    assert len({requirement.name for requirement in requirements}) == len(requirements), "a dependency is listed twice"
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


@pytest.fixture(scope="module")
def requirements() -> dict[str, str]:
    return parse_requirements([line for name in LISTS for line in (ROOT / name).read_text().splitlines()])


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_yaml(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(ROOT / name))


def test_conda_and_pip_read_the_same_list(project):
    *conda, pip = read_yaml("environment.yml")["dependencies"]
    assert pip == {"pip": ["-r requirements.txt", "-r requirements-extras.txt"]} and set(parse_requirements(conda)) == {
        "python",
        "pip",
    }
    assert "dependencies" in project["project"]["dynamic"] and "dependencies" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}


def test_the_extras_are_those_of_the_project_and_the_scripts_install_them(project):
    extras = [entry for listed in project["project"]["optional-dependencies"].values() for entry in listed]
    assert parse_requirements(extras) == parse_requirements((ROOT / LISTS[1]).read_text().splitlines())
    assert f"lists=({' '.join(LISTS)})" in (ROOT / "scripts/setup.sh").read_text()


def test_every_file_requires_the_same_python_version(project):
    conda = parse_requirements(
        [entry for entry in read_yaml("environment.yml")["dependencies"] if isinstance(entry, str)]
    )
    assert conda["python"] == project["project"]["requires-python"] == ">=3.11" and sys.version_info >= (3, 11)


def test_the_citation_has_the_version_of_the_project(project):
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == project["project"]["version"]
    assert (
        len(citation["preferred-citation"]["authors"]) == 10 and "2402.13144" in citation["preferred-citation"]["url"]
    )


def test_the_commit_hooks_run_the_same_checks_as_the_suite():
    (local,) = read_yaml(".pre-commit-config.yaml")["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/python ") for hook in local["hooks"]]
    suite = [line.split(" ", 1)[1] for line in (ROOT / "scripts/test.sh").read_text().splitlines() if "$PYTHON" in line]
    assert local["repo"] == "local" and hooks == [
        "-m ruff check",
        "-m ruff format --check",
        "-m mypy",
        "-m codespell_lib",
    ]
    assert suite[:4] == hooks and len(suite) == 5 and "-m pytest" in suite[4]
    assert "scripts/test.sh" in (ROOT / ".ci/run").read_text()


def test_ranges_have_no_upper_bound(requirements):
    bounded = {
        name: versions for name, versions in requirements.items() if not versions.startswith(">=") or "," in versions
    }
    assert not bounded


def test_installed_versions_are_inside_the_ranges(requirements):
    for name, versions in requirements.items():
        assert Requirement(f"{name}{versions}").specifier.contains(
            importlib.metadata.version(name), prereleases=True
        ), name


def test_every_imported_package_is_listed(requirements):
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
            for package in {module.split(".")[0] for module in modules} - OWN_PACKAGES - set(sys.stdlib_module_names):
                names = {name.lower() for name in distributions.get(package, [package])}
                assert names & requirements.keys(), (
                    f"{path.relative_to(ROOT)} imports {package}, which {' and '.join(LISTS)} do not list"
                )
