"""The pages fit the code and configs/: their links, commands, overrides, defaults and examples are correct."""

import argparse
import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

import task_training
from core.checkpoints.checkpoint_set import CheckpointSet
from core.command_line.entry_point import CONFIGS, convert_group_override, to_plain
from core.command_line.ranges import check_ranges
from core.evaluation.verdict import Novelty, Outcome
from core.report.captions import CAPTIONS
from core.report.sentences import NOVELTY
from core.report.source_table import MEASURES
from core.report.style import FAMILY_STYLES
from core.training.system import SystemSpec
from scripts import import_checkpoints
from tasks.specification import TaskSpec
from train_p_diff import STAGES

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRY_POINTS = ("task_training.py", "train_p_diff.py")
SHELL_SCRIPTS = {  # a script that hands its arguments to both entry points -> the arguments that it adds
    "scripts/quickstart.sh": [],
    "cifar100_resnet18_k200.sh": ["experiment=cifar100_resnet18_k200"],
}
PARSERS = {"scripts/gpu_check.sh": "scripts.gpu_check"}  # a script -> the module that parses its arguments


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return [code for found, code in BLOCK.findall(PAGES[page].read_text()) if found == language]


def commands(page: str) -> list[list[str]]:
    """Return every command of the page's bash blocks as words, with the variables of the page replaced."""
    variables: dict[str, str] = {}
    found = []
    for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
        line = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), line)
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (assigned := re.fullmatch(r"(\w+)=(.*)", words[0])):
            variables[assigned[1]] = assigned[2]
        else:
            found += [part for part in split_at(words, "&&") if part]
    return found


def split_at(words: list[str], separator: str) -> Iterator[list[str]]:
    """Yield the parts between separators."""
    while separator in words:
        yield words[: words.index(separator)]
        words = words[words.index(separator) + 1 :]
    yield words


def hydra_arguments(words: list[str]) -> list[str] | None:
    """Return the arguments that a command hands to an entry point, or None for any other command."""
    if words[0] == "python" and words[1] in ENTRY_POINTS:
        return words[2:]
    if words[0] == "bash" and words[1] in SHELL_SCRIPTS:
        return [*SHELL_SCRIPTS[words[1]], *words[2:]]
    return None


def parsed_module(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the module that parses a command's arguments, and the arguments; yield nothing for other commands."""
    if words[:2] == ["python", "-m"] and words[2].startswith("scripts."):
        yield words[2], words[3:]
    if words[0] == "bash" and words[1] in PARSERS:
        yield PARSERS[words[1]], words[2:]


@cache
def composed(*overrides: str) -> DictConfig:
    """Return the configuration with these overrides."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("base", overrides=list(overrides), return_hydra_config=True)


def jobs(arguments: list[str]) -> list[list[str]]:
    """Return the overrides of each job of a command, which is one job unless it is a multirun."""
    words = [word.replace("${hydra:job.num}", "0") for word in arguments]  # Only Hydra's launcher numbers jobs.
    if "--cfg" in words:
        del words[words.index("--cfg") : words.index("--cfg") + 2]
    overrides = [convert_group_override(word) for word in words if word not in ("-m", "[overrides]")]
    if "-m" not in words:
        return [overrides]
    batches = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    return [job for batch in batches for job in batch]


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]
HYDRA = {tuple(given): page for page, words in COMMANDS if (given := hydra_arguments(words)) is not None}
PARSED = {(module, *given): page for page, words in COMMANDS for module, given in parsed_module(words)}


def test_the_readme_is_short():
    assert len(PAGES["README.md"].read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", [str(path.relative_to(ROOT)) for path in DOCS])
def test_a_page_starts_with_a_command(page):
    lines = PAGES[page].read_text().splitlines()[:10]
    assert "```bash" in lines and lines[0].startswith("# ")


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = BLOCK.sub("", path.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    text = BLOCK.sub("", PAGES[page].read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = PAGES[page].parent / file if file else PAGES[page]
        assert path.exists(), f"{page} links to {target}, which is not there"
        assert not anchor or anchor in anchors(path), f"{page} links to {target}, and {path.name} has no such heading"


def test_there_are_commands_to_check():
    assert len(HYDRA) > 40 and len({module for module, *_ in PARSED}) >= 5
    assert any(len(jobs(list(arguments))) > 3 for arguments in HYDRA)


@pytest.mark.parametrize("arguments", HYDRA, ids=[f"{page} {' '.join(given)}" for given, page in HYDRA.items()])
def test_a_command_fits_the_configuration(arguments):
    for overrides in jobs(list(arguments)):
        found = composed(*overrides)
        cfg = OmegaConf.masked_copy(found, [section for section in found if section != "hydra"])
        OmegaConf.resolve(cfg)
        check_ranges(cfg)
        assert cfg.mode in STAGES
        TaskSpec.from_config(to_plain(cfg.task))
        SystemSpec.from_config(to_plain(cfg.system))
        for override in overrides:
            if "._target_=" in override:
                get_object(override.partition("=")[2])


class Parsed(Exception):
    """Exception that stops a script after its arguments were accepted."""


@pytest.mark.parametrize("command", PARSED, ids=[f"{page} {' '.join(given)}" for given, page in PARSED.items()])
def test_arguments_of_a_script_are_accepted(command, monkeypatch):
    def parse_and_stop(*args: Any, **options: Any) -> None:
        parse_args(*args, **options)
        raise Parsed

    parse_args = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", list(command))
    module = command[0]
    package = (ROOT / module.replace(".", "/")).is_dir()
    with pytest.raises(Parsed):
        importlib.import_module(f"{module}.__main__" if package else module).main()


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_compile(page):
    for code in blocks(page, "python"):
        compile(code, page, "exec")


ROW = re.compile(r"^\| `([\w./]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
USAGE = PAGES["docs/usage.md"].read_text()
OVERRIDES = ROW.findall(USAGE[USAGE.index("## All overrides") : USAGE.index("## Modes")])


def test_the_tables_of_overrides_are_read():
    sections = {name.split(".")[0].split("/")[0] for name, _, _ in OVERRIDES}
    assert len(OVERRIDES) > 80 and sections >= set(composed()) - {"hydra"}


@pytest.mark.parametrize("name, default, meaning", OVERRIDES, ids=[name for name, _, _ in OVERRIDES])
def test_an_override_exists_with_its_default(name, default, meaning):
    needed = re.findall(r"^Needs `([^`]+)`", meaning)
    cfg = composed(*map(convert_group_override, needed))
    group = CONFIGS.joinpath(*re.split(r"[./]", name))
    shown = re.fullmatch(r"`([^<>`]+)`", default)
    if group.is_dir():
        chosen = cfg.hydra.runtime.choices[re.sub(r"\.", "/", name)]
        assert shown is None or chosen == shown[1]
        mentioned = set(re.findall(r"`([\w]+)`", meaning))
        missing = {path.stem for path in group.glob("*.yaml")} - mentioned
        assert name in ("task", "experiment") or not missing, f"docs/usage.md does not name {missing} of {name}"
        return
    value = OmegaConf.select(cfg, name, default=Parsed)
    assert value is not Parsed, f"docs/usage.md names {name}, which is no setting"
    if shown:
        expected = OmegaConf.create(f"value: {shown[1]}").value
        assert value == expected, f"{name} is {value} by default, not {expected}"


def test_every_setting_of_a_section_is_on_the_page():
    documented = {name for name, _, _ in OVERRIDES}
    cfg = OmegaConf.masked_copy(composed(), ["task", "system", "generation", "evaluation", "scoring"])
    # The page describes a class and its own arguments together with their section.
    own = re.compile(r"_target_$|_partial_$|\.scheduler\.|\.fused$|\.kind$|\.name$")
    names = {name for name in leaves(OmegaConf.to_container(cfg)) if not own.search(name)}
    assert len(names) > 60 and not names - documented


def leaves(node: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of all values. A list or an empty section is a value."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{name}.{key}" if name else key)
    else:
        yield name


def first_column(heading: str) -> list[str]:
    """Return the first cells of the tables in one section of the page on the report."""
    text = PAGES["docs/reading_the_report.md"].read_text()
    section = text[text.index(f"\n## {heading}\n") + 1 :].partition("\n## ")[0]
    return [cell.strip("`") for cell in re.findall(r"^\| (.*?) \|", section, re.MULTILINE)]


def test_the_page_on_the_report_explains_all_that_is_in_it():
    assert {name.split("_")[0] for name in FAMILY_STYLES} <= {name.split("_")[0] for name in first_column("Sources")}
    columns = {name.strip() for cell in first_column("Columns") for name in cell.split(",")}
    assert {column.label.removesuffix(" %") for column, _ in MEASURES.values()} <= columns
    assert {*Outcome, *Novelty} <= set(first_column("Verdict"))
    page = PAGES["docs/reading_the_report.md"].read_text()
    for novelty in Novelty:
        (said,) = re.findall(rf"^\| {novelty} \| (.*?)\. \|", page, re.MULTILINE)
        assert NOVELTY[novelty].startswith(said)
    figures = {title.strip() for cell in first_column("Figures")[1:] for title in cell.split(",")}
    assert figures == {caption.title for caption in CAPTIONS.values()}


def run_example(page, module, tmp_path, monkeypatch, capsys) -> tuple[CheckpointSet, str]:
    """Run the code of a page and its import; check the printed next command and return checkpoints and output."""
    (code,) = blocks(page, "python")
    run_it, imported, then = commands(page)[2:5]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / f"{module}.py").write_text(code)
    try:
        assert run_it == ["python", f"{module}.py"]
        runpy.run_path(f"{module}.py", run_name="__main__")
        monkeypatch.setattr(sys, "argv", imported[2:])
        import_checkpoints.main()
    finally:
        sys.modules.pop(module, None)
    printed = capsys.readouterr().out
    assert shlex.split(printed[printed.index("next: ") + len("next: ") :]) == then
    return CheckpointSet.load(Path("param_data/runs/checkpoints.safetensors")), printed


def test_the_example_of_own_checkpoints_runs_as_the_page_says(tmp_path, monkeypatch, capsys):
    checkpoints, _ = run_example("docs/own_checkpoints.md", "my_code", tmp_path, monkeypatch, capsys)
    assert (len(checkpoints), checkpoints.subset.names) == (20, ("norm.weight", "norm.bias"))
    assert checkpoints.accuracy_K.min() > 0.7 and len(checkpoints.accuracy_K.unique()) > 3


OWN_TASK = blocks("docs/own_task.md", "python")[0]  # tests of the contract of a task use this example, too


def test_the_example_of_an_own_task_trains_and_collects_as_the_page_says(tmp_path, monkeypatch, capsys):
    assert len(OWN_TASK.splitlines()) < 80
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    train_it, generate = (words for words in commands("docs/own_task.md") if "task.param.k=100" in words)
    assert generate[2:-2] == train_it[2:], "both commands have the same overrides of the task"
    monkeypatch.setattr(sys, "argv", [*train_it[1:], "trainer=cpu", "logger=none"])
    try:
        task_training.main()
    finally:
        sys.modules.pop("my_task", None)
    checkpoints = CheckpointSet.load(Path("param_data/own_network/checkpoints.safetensors"))
    assert len(checkpoints) == 100 and checkpoints.provenance["metric"]["name"] == "RMSE"
    assert len(checkpoints.subset.names) == 6 and len(torch.unique(checkpoints.vectors_KD, dim=0)) == 100
    assert 50 < checkpoints.accuracy_K.min() < checkpoints.accuracy_K.max() < 65
    assert re.search(r"validation RMSE 5\d\.\d\d–\d\d\.\d\d$", capsys.readouterr().out, re.MULTILINE)


def test_the_influence_of_the_example_has_the_metric_as_its_mean(tmp_path):
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    example = runpy.run_path(str(tmp_path / "my_task.py"))
    counter = example["Regression"]().count_scores(2, torch.device("cpu"))
    predicted_MB, targets_B = torch.tensor([[1.0, 2.0], [0.0, 7.0]]), torch.tensor([0.0, 4.0])
    counter.add([(slice(0, 1), predicted_MB[:1]), (slice(1, 2), predicted_MB[1:])], targets_B)
    scores = counter.finish()
    np.testing.assert_allclose(scores.accuracy_M, np.sqrt([2.5, 4.5]))
    np.testing.assert_allclose(scores.influence_MN.mean(axis=1), scores.accuracy_M)
