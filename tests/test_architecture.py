"""Imports point one way, no file runs or loads code that it was not written with, no configuration names a machine."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
PACKAGES = [*sorted((ROOT / "core").rglob("*.py")), *sorted((ROOT / "tasks").rglob("*.py"))]
SOURCES = [*PACKAGES, *sorted(ROOT.glob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

ALLOWED = {  # package -> what it may import from core; each line may only name packages of lines above it
    "runtime": set(),
    "networks": {"runtime"},
    "diffusion": {"runtime"},
    "checkpoints": {"runtime"},
    "generation": {"runtime", "networks", "checkpoints", "diffusion"},
    "training": {"runtime", "networks", "checkpoints", "diffusion", "generation"},
    "evaluation": {"runtime", "checkpoints", "generation"},
    "report": {"runtime", "evaluation"},
    "publishing": {"runtime", "checkpoints", "report"},
    "command_line": {"runtime"},
}
TASKS_ALLOWED = {"runtime", "checkpoints", "evaluation"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def core_packages(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, package of core that it imports) for each import of core below `folder`."""
    for path in sorted(folder.rglob("*.py")):
        for module in imported_modules(path):
            if module.split(".")[0] == "core":
                yield relative(path), module.split(".")[1]


def test_the_table_of_layers_names_every_package_and_has_no_cycle():
    assert set(ALLOWED) == {path.parent.name for path in (ROOT / "core").glob("*/__init__.py")}
    above: set[str] = set()
    for package, imports in ALLOWED.items():
        assert imports <= above, f"{package} may import {imports - above}, which stand below it"
        above.add(package)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_of_core_import_only_those_below_them(package):
    found = list(core_packages(ROOT / "core" / package))
    assert found or package == "runtime"
    for path, imported in found:
        assert imported in ALLOWED[package] | {package}, f"{path} may not import core.{imported}"


@pytest.mark.parametrize("path", sorted((ROOT / "core").rglob("*.py")), ids=relative)
def test_core_never_knows_of_tasks(path):
    known = {module.split(".")[0] for module in imported_modules(path)}
    assert not known & {"tasks", "scripts", "train_p_diff", "task_training"}
    assert not {"torchvision", "timm"} & known, "images and classifiers are the tasks' affair"


def test_tasks_know_only_what_they_need_of_core():
    for path, imported in core_packages(ROOT / "tasks"):
        assert imported in TASKS_ALLOWED, f"{path} may not import core.{imported}"


@pytest.mark.parametrize("path", [path for path in CONFIGS if "system" in path.parts], ids=relative)
def test_no_configuration_of_the_generative_side_builds_something_of_tasks(path):
    assert not re.search(r"_target_:\s*(tasks|scripts)\.", path.read_text())


FORBIDDEN_MODULES = {"pdb", "ipdb", "pudb", "pickle", "cPickle", "dill", "cloudpickle", "joblib", "IPython"}
FORBIDDEN_CALLS = {"breakpoint", "exec", "eval", "__import__"}
EXCEPTIONS = {
    ("tasks/user_code.py", "sys.path")
}  # modules of the user's own lie in the folder where the command is given
FORBIDDEN_ATTRIBUTES = {"sys.path", "os.system", "os.chdir", "os.popen", "pdb.set_trace", "torch.save"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_source_hygiene(path):
    for module in imported_modules(path):
        assert not module.endswith(".*"), f"star import of {module}"
        assert module.split(".")[0] not in FORBIDDEN_MODULES, f"import of {module}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and (relative(path), ast.unparse(node)) not in EXCEPTIONS:
            assert ast.unparse(node) not in FORBIDDEN_ATTRIBUTES, f"{ast.unparse(node)}, line {node.lineno}"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS, f"{ast.unparse(node)}, line {node.lineno}"
            check_that_nothing_is_unpickled(node)


def check_that_nothing_is_unpickled(call: ast.Call) -> None:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    function = ast.unparse(call.func)
    if function == "torch.load" or "ckpt_path" in given or function.endswith("load_from_checkpoint"):
        assert given.get("weights_only") == "True", f"{function} without weights_only=True, line {call.lineno}"
    if function in {"np.load", "numpy.load"}:
        assert given.get("allow_pickle") == "False", f"{function} without allow_pickle=False, line {call.lineno}"
    assert given.get("allow_pickle") != "True" and given.get("shell") != "True", (
        f"{ast.unparse(call)}, line {call.lineno}"
    )


@pytest.mark.parametrize("path", PACKAGES, ids=relative)
def test_libraries_log_and_never_print(path):
    prints = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert not prints, f"print in line {prints[0]}"


@pytest.mark.parametrize("path", PACKAGES, ids=relative)
def test_every_module_says_what_lives_in_it_and_has_a_name_of_its_own(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert path.stem not in {"utils", "helpers", "misc", "common"}


def config_values(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf; a list is a leaf."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from config_values(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_no_configuration_names_a_folder_or_a_device_of_one_machine(path):
    for name, value in config_values(OmegaConf.to_container(OmegaConf.load(path))):
        for text in map(str, value if isinstance(value, list) else [value]):
            assert not re.match(r"[/~]|[A-Za-z]:\\", text), f"{name}={text} is a place on one machine"
            assert not re.search(r"(cuda|gpu|mps)[:_ ]?\d", text), f"{name}={text} is one device"
        if name.split(".")[-1] == "devices":
            assert value == "auto" or type(value) is int and value > 0, f"{name}={value} names devices; say how many"


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_sizes_that_the_data_or_the_network_decide_are_not_typed_in(path):
    names = {
        name.split(".")[-1]
        for name, value in config_values(OmegaConf.to_container(OmegaConf.load(path)))
        if value is not None
    }
    if (
        path.parent.name == "experiment"
    ):  # a published setting may normalize otherwise than its dataset would; tests/test_catalogue.py holds what was published
        names -= {"mean", "std"}
    assert not names & {"num_classes", "in_chans", "in_channels", "num_params", "mean", "std"}


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("*.sh")), *sorted((ROOT / "scripts").iterdir())], ids=relative)
def test_no_script_names_a_home_or_a_device(path):
    if path.is_file():
        assert not re.search(r"/home/|/root/|/Users/|/mnt/|~/|CUDA_VISIBLE_DEVICES=\d", path.read_text())
