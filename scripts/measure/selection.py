"""The runs of measured results, and the ones among them that a mark chooses by their settings."""

from collections.abc import Sequence
from pathlib import Path

from core.report.compared_runs import CLASS, ComparedRun, sort_runs
from core.report.comparison_table import setting_cell
from core.report.run_files import RunFiles
from core.runtime.errors import UserError
from scripts.measure.result import Result

FOLDER = "folder"


def read_runs(results: Sequence[Result]) -> list[ComparedRun]:
    """Return every run of several results in the order in which they were measured."""
    kept = [run for result in results for run in result.data]
    return [ComparedRun.from_files(RunFiles(Path(run["folder"]), run["metrics"], config=run["config"])) for run in kept]


def open_runs(results: Sequence[Result], *conditions: str) -> list[ComparedRun]:
    """Return the runs of several results that fulfill all conditions, in the order of what sets them apart.

    Raises:
        UserError: No run fulfills them.
    """
    chosen = [run for run in sort_runs(read_runs(results)) if all(fulfills(run, condition) for condition in conditions)]
    if not chosen:
        raise UserError(f"{name_files(results)} holds no run with {' '.join(conditions)}")
    return chosen


def fulfills(run: ComparedRun, condition: str) -> bool:
    """Return whether a run has the value of a condition; classes are compared without their package."""
    name, _, value = condition.partition("=")
    if name == FOLDER:
        return str(run.files.path) == value
    name = name + CLASS if name + CLASS in run.settings else name
    return name in run.settings and setting_cell(name, run.settings[name]).text == value


def open_run(results: Sequence[Result], *conditions: str) -> ComparedRun:
    """Return the only run that fulfills the conditions.

    Raises:
        UserError: None does, or several do.
    """
    runs = open_runs(results, *conditions)
    if len(runs) > 1:
        wanted = f" with {' '.join(conditions)}" if conditions else ""
        raise UserError(f"{name_files(results)} holds {len(runs)} runs{wanted}; add a condition, such as seed=1")
    return runs[0]


def name_files(results: Sequence[Result]) -> str:
    """Return the names of the files of results."""
    return " and ".join(f"results/{result.name}.json" for result in results)
