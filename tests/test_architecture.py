"""Import direction, unpickling, machine-specific settings, and the references to code in two pages of docs.

The linter (pyproject.toml) checks star imports, debuggers, prints, exec, eval, pickles and sys.path.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
PACKAGES = [*sorted((ROOT / "core").rglob("*.py")), *sorted((ROOT / "tasks").rglob("*.py"))]
SOURCES = [*PACKAGES, *sorted(ROOT.glob("*.py")), *sorted((ROOT / "scripts").rglob("*.py"))]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
ENTRY_POINTS = {"train_p_diff", "task_training"}

CORE = {  # room of core -> rooms of core that it may import, all of them above it in this table
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
TASKS = {  # the table of tasks, in which a single file also counts as a room
    "objectives": set(),
    "data": {"objectives"},
    "user_code": {"data", "objectives"},
    "networks": {"user_code", "objectives"},
    "scoring": {"data", "objectives"},
    "collecting": {"data", "objectives"},
    "specification": {"data", "networks", "collecting"},
    "task": {"data", "user_code", "networks", "scoring", "specification"},
    "training": {"objectives", "data", "networks", "scoring", "collecting", "specification", "task"},
    "importing": {"user_code", "networks", "scoring", "specification", "task", "training"},
    "description": {"objectives", "data", "networks", "importing"},
}
CORE_ROOMS_FOR_TASKS = {"runtime", "checkpoints", "evaluation"}
ROOMS = [("core", CORE, room) for room in CORE] + [("tasks", TASKS, room) for room in TASKS]


def relative(path: Path) -> str:
    """Return the path relative to the repository."""
    return str(path.relative_to(ROOT))


def get_module(path: Path) -> str:
    """Return the dotted name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {get_module(path): path for path in SOURCES}


def find_imports(path: Path) -> Iterator[str]:
    """Yield the dotted names of everything that a file imports, at any level."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_own_imports(path: Path) -> set[str]:
    """Return the project modules that a file imports; `from core.runtime import trainer` gives core.runtime.trainer."""
    found = set()
    for name in find_imports(path):
        parts = name.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        found |= {next((prefix for prefix in prefixes if prefix in MODULES), "")} - {""}
    return found


def get_room(module: str) -> tuple[str, str]:
    """Return ("core", "runtime") for core.runtime.trainer and ("tasks", "task") for tasks.task."""
    side, _, rest = module.partition(".")
    return side, rest.partition(".")[0]


def test_the_tables_name_every_room_and_point_one_way():
    for side, table in (("core", CORE), ("tasks", TASKS)):
        rooms = {get_room(module)[1] for module in MODULES if module.startswith(f"{side}.")}
        assert set(table) == rooms
        above: set[str] = set()
        for room, imports in table.items():
            assert imports <= above, f"{side}/{room} may import {imports - above}, which stand below it in the table"
            above.add(room)


@pytest.mark.parametrize("side, table, room", ROOMS, ids=[f"{side}/{room}" for side, _, room in ROOMS])
def test_a_room_imports_only_rooms_above_it_in_the_table(side, table, room):
    files = [path for module, path in MODULES.items() if get_room(module) == (side, room)]
    assert files
    for path in files:
        for imported_side, imported in map(get_room, find_own_imports(path)):
            if imported_side == side:
                assert imported in table[room] | {room}, f"{relative(path)} may not import {side}/{imported}"


def test_imports_have_no_cycle():
    tuple(
        TopologicalSorter(
            {module: find_own_imports(path) - {module} for module, path in MODULES.items()}
        ).static_order()
    )


@pytest.mark.parametrize("path", sorted((ROOT / "core").rglob("*.py")), ids=relative)
def test_core_does_not_import_tasks(path):
    known = {name.split(".")[0] for name in find_imports(path)}
    assert not known & {"tasks", "scripts", *ENTRY_POINTS}
    assert not {"torchvision", "timm"} & known, "only tasks may handle images and classifiers"


def test_tasks_import_only_three_rooms_of_core():
    for path in sorted((ROOT / "tasks").rglob("*.py")):
        for side, room in map(get_room, find_own_imports(path)):
            allowed = side == "tasks" or (side == "core" and room in CORE_ROOMS_FOR_TASKS)
            assert allowed, f"{relative(path)} may not import {side}/{room}"


@pytest.mark.parametrize("path", [path for path in CONFIGS if "system" in path.parts], ids=relative)
def test_no_configuration_of_a_system_names_a_class_of_tasks(path):
    assert not re.search(r"_target_:\s*(tasks|scripts)\.", path.read_text())


PLANTED = {  # rule of the linter -> code that it must refuse, both in core and in an entry point
    "F403": "from math import *",
    "T100": "breakpoint()",
    "T201": 'print("here")',
    "S102": 'exec("1")',
    "S307": 'eval("1")',
    "S605": 'import os\nos.system("ls")',
    "S602": 'import subprocess\nsubprocess.run("ls", shell=True)',
    "TID252": "from . import runtime",
    "D100": "",
    "D401": 'def f():\n    """The value."""',
    "TID251": "import pickle\nimport sys\nimport torch\nsys.path.append(1)\ntorch.save(1, 2)\nimport os\nos.chdir(1)",
}


@pytest.mark.parametrize("file", ["core/runtime/planted.py", "planted.py"])
@pytest.mark.parametrize("rule, source", PLANTED.items(), ids=list(PLANTED))
def test_the_linter_refuses_forbidden_code(file, rule, source):
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json", f"--stdin-filename={file}", "-"]
    found = subprocess.run(command, input=source, cwd=ROOT, capture_output=True, text=True)
    rules = [entry["code"] for entry in json.loads(found.stdout)]
    assert found.returncode == 1 and rules.count(rule) == (4 if rule == "TID251" else 1)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_is_unpickled_or_imported_by_name(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            check_that_nothing_is_unpickled(node)


def check_that_nothing_is_unpickled(call: ast.Call) -> None:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    function = ast.unparse(call.func)
    assert function != "__import__", f"the linter cannot see an import by __import__, line {call.lineno}"
    if function == "torch.load" or "ckpt_path" in given or function.endswith("load_from_checkpoint"):
        assert given.get("weights_only") == "True", f"{function} without weights_only=True, line {call.lineno}"
    if function in {"np.load", "numpy.load"}:
        assert given.get("allow_pickle") == "False", f"{function} without allow_pickle=False, line {call.lineno}"
    assert given.get("allow_pickle") != "True", f"{ast.unparse(call)}, line {call.lineno}"


@pytest.mark.parametrize("path", PACKAGES, ids=relative)
def test_no_module_has_a_catch_all_name(path):
    assert path.stem not in {"utils", "helpers", "misc", "common"}


def find_values(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every leaf; a list counts as a leaf."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from find_values(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_no_configuration_names_a_folder_or_a_device_of_one_machine(path):
    for name, value in find_values(OmegaConf.to_container(OmegaConf.load(path))):
        for text in map(str, value if isinstance(value, list) else [value]):
            assert not re.match(r"[/~]|[A-Za-z]:\\", text), f"{name}={text} is a path on one machine"
            assert not re.search(r"(cuda|gpu|mps)[:_ ]?\d", text), f"{name}={text} is the device of one machine"
        if name.split(".")[-1] == "devices":
            counted = type(value) is int and value > 0
            assert value == "auto" or counted, f"{name}={value} must be a number of devices or auto"


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_no_configuration_sets_sizes_that_data_or_network_decide(path):
    values = find_values(OmegaConf.to_container(OmegaConf.load(path)))
    names = {name.split(".")[-1] for name, value in values if value is not None}
    if path.parent.name == "experiment":
        # A published setting may normalize differently from its dataset; tests/test_catalogue.py checks these values.
        names -= {"mean", "std"}
    assert not names & {"num_classes", "in_chans", "in_channels", "num_params", "mean", "std"}


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("*.sh")), *sorted((ROOT / "scripts").iterdir())], ids=relative)
def test_no_script_names_a_home_or_a_device(path):
    if path.is_file():
        assert not re.search(r"/home/|/root/|/Users/|/mnt/|~/|CUDA_VISIBLE_DEVICES=\d", path.read_text())


PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("architecture.md", "method.md")}
REFERENCE = re.compile(r"`([\w./{}-]+\.(?:py|yaml|md|sh|toml|csv|j2)(?::[\w.]+)?)`")
REFERENCES = [(page, found) for page, text in PAGES.items() for found in sorted(set(REFERENCE.findall(text)))]
FOLDERS = [
    (page, found) for page, text in PAGES.items() for found in sorted(set(re.findall(r"`((?:[\w-]+/)+)`", text)))
]


def find_defined_names(path: Path) -> set[str]:
    """Return the names that a file defines at its top level, and `Class.name` for attributes and methods."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        own = find_names(node)
        found |= own
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner}" for statement in node.body for inner in find_names(statement)}
    return found


def find_names(node: ast.stmt) -> set[str]:
    """Return the names that one statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_both_pages_name_code():
    counts = {page: len([found for other, found in REFERENCES if other == page]) for page in PAGES}
    assert counts["architecture.md"] > 40 and counts["method.md"] > 20
    assert len(FOLDERS) > 15


@pytest.mark.parametrize("page, reference", REFERENCES)
def test_every_file_and_name_on_a_page_exists(page, reference):
    file, _, name = reference.partition(":")
    assert (ROOT / file).is_file(), f"docs/{page} names {file}, which does not exist"
    if name:
        assert name in find_defined_names(ROOT / file), f"docs/{page} names {name}, which {file} does not define"


# The pages also name folders and files of a run, which are not in the repository.
@pytest.mark.parametrize(
    "page, folder", [pair for pair in FOLDERS if pair[1].split("/")[0] in {"core", "tasks", "configs"}]
)
def test_every_source_folder_on_a_page_exists(page, folder):
    assert (ROOT / folder).is_dir(), f"docs/{page} names {folder}, which does not exist"


def test_the_references_of_the_method_page_are_all_cited_and_all_there():
    text, _, listed = PAGES["method.md"].partition("\n## References\n")
    assert set(re.findall(r"\[(\d+)[\],]", text)) == set(re.findall(r"^(\d+)\. ", listed, re.MULTILINE))


def test_the_architecture_page_names_every_room():
    rooms = [f"core/{room}/" for room in CORE] + [
        f"tasks/{room}/" if (ROOT / "tasks" / room).is_dir() else f"tasks/{room}.py" for room in TASKS
    ]
    missing = [room for room in rooms if f"`{room}`" not in PAGES["architecture.md"]]
    assert not missing
