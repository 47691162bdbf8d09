"""Several runs to compare: their order, and the settings in which they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from core.report.metric_words import MetricWords
from core.report.run_files import RunFiles, read_config, read_metrics
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from core.runtime.settings import flatten

# These settings say where and how a run was made and do not change its numbers. `kind` is known from its section.
IGNORED_SETTINGS = (
    "mode",
    "output_dir",
    "task.param.path",
    "task.collect.kind",
    "task.data.root",
    "task.data.num_workers",
)
IGNORED_PREFIXES = ("trainer.", "logger.", "experiment")
CLASS = "._target_"  # A setting whose name ends like this names the class of its section.
SEED = "seed"  # A setting whose name ends like this only repeats a run, so it is not a sweep.


@dataclass(frozen=True)
class ComparedRun:
    """One run: its files, its settings by dotted name, and its rows of metrics.json by source."""

    files: RunFiles
    settings: dict[str, Any]
    rows: dict[str, dict[str, Any]]

    @classmethod
    def from_files(cls, files: RunFiles) -> Self:
        """Return a run by its files, with the settings that change its numbers."""
        settings = {
            name: value
            for name, value in flatten(files.config)
            if name not in IGNORED_SETTINGS and not name.startswith(IGNORED_PREFIXES)
        }
        return cls(files, settings, {row["source"]: row for row in files.metrics["table"]})

    @property
    def group(self) -> tuple[str, str]:
        """Dataset and architecture, which make one row of the paper's table."""
        return str(self.files.dataset), str(self.files.model)


def read_runs(folders: Sequence[Path]) -> tuple[list[ComparedRun], list[str]]:
    """Return the runs in the order of `sort_runs`, and one sentence for each folder that cannot be compared."""
    runs: list[ComparedRun] = []
    problems: list[str] = []
    for folder in dict.fromkeys(folders):
        try:
            layout = RunDirectory(folder)
            files = RunFiles(folder, read_metrics(layout.metrics), config=read_config(layout.config))
        except UserError as error:
            problems.append(str(error))
            continue
        if not (files.dataset and files.model):
            problems.append(f"{layout.config} must hold task.data.dataset and task.model.name")
            continue
        metric = MetricWords.read(files.metrics).name
        if runs and (first := MetricWords.read(runs[0].files.metrics).name) != metric:
            problems.append(f"{folder} measures {metric}, but {runs[0].files.path} measures {first}")
            continue
        runs.append(ComparedRun.from_files(files))
    return sort_runs(runs), problems


def sort_runs(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Sort the runs of each dataset and architecture by the settings in which they differ.

    Numbers are sorted by size. Other values keep the order in which the runs were given.
    """
    # Seeds are the last sort key, so that the repetitions of a run stand together.
    names = sorted(differing_settings(runs), key=lambda name: name.endswith(SEED))
    ordered: list[ComparedRun] = []
    for group in group_runs(runs).values():
        given = {name: [repr(run.settings.get(name)) for run in group] for name in names}
        keys = [[sort_key(run, name, given[name]) for name in names] for run in group]
        ordered += [group[index] for index in sorted(range(len(group)), key=keys.__getitem__)]
    return ordered


def sort_key(run: ComparedRun, name: str, given: Sequence[str]) -> float:
    """Return a setting's number; for other values, return the index in `given` at which the value first occurs."""
    value = run.settings.get(name)
    if isinstance(value, (int, float)) and is_number(value):
        return float(value)
    return given.index(repr(value))


def differing_settings(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the names of the settings that differ among runs of the same dataset and architecture.

    Redundant settings are left out. If runs use different classes for a section, only the class is returned,
    not the options of each class. If several settings always change together, only the first of them with a number is
    returned, or the first one if none has a number.
    """
    names: dict[str, None] = {}
    for group in group_runs(runs).values():
        for name in dict.fromkeys(name for run in group for name in run.settings):
            values_by_class: dict[tuple[Any, ...], set[str]] = {}
            for run in group:
                values_by_class.setdefault(enclosing_classes(run, name), set()).add(repr(run.settings.get(name)))
            if any(len(values) > 1 for values in values_by_class.values()):
                names[name] = None
    kept: dict[tuple[Any, ...], str] = {}
    for name in sorted(names, key=lambda name: not any(is_number(run.settings.get(name)) for run in runs)):
        kept.setdefault(change_pattern(runs, name), name)
    return [name for name in names if name in kept.values()]


def swept_settings(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the differing settings without seeds, which only repeat a run."""
    return [name for name in differing_settings(runs) if not name.endswith(SEED)]


def change_pattern(runs: Sequence[ComparedRun], name: str) -> tuple[Any, ...]:
    """Return a pattern of the values of a setting over the runs.

    Settings with equal patterns always change together. The pattern of a seed never equals that of another setting.
    """
    values = [repr(run.settings.get(name)) for run in runs]
    return name.endswith(SEED), *map(values.index, values)


def enclosing_classes(run: ComparedRun, name: str) -> tuple[Any, ...]:
    """Return the class of each section around a setting, and whether the section is null."""
    parts = name.removesuffix(CLASS).split(".")
    sections = [".".join(parts[:end]) for end in range(1, len(parts))]
    return tuple((run.settings.get(section + CLASS), section in run.settings) for section in sections)


def group_runs(runs: Sequence[ComparedRun]) -> dict[tuple[str, str], list[ComparedRun]]:
    """Return the runs by dataset and architecture."""
    groups: dict[tuple[str, str], list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return groups


def is_number(value: Any) -> bool:
    """Return whether a setting is a number. Booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
