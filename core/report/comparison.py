"""Many runs side by side: the paper's Table 1 shape, and which settings were swept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from core.evaluation.kinds import GENERATED, ORIGINAL, PROTOCOL_SOURCES
from core.report.cells import ABSENT, Cell, Column, Table, csv_text, number, percent
from core.report.published import from_paper
from core.report.run_files import RunFiles, read_config, read_metrics
from core.report.style import save
from core.report.sweep_figure import Point, sweep_figure
from core.runtime.artifacts import replacing
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from core.runtime.settings import flatten

# These settings say where and how a run was made, not what. The kind of collecting follows from its section.
NO_SETTING = (
    "mode",
    "output_dir",
    "task.param.path",
    "task.collect.kind",
    "task.data.root",
    "task.data.num_workers",
)
NOT_COMPARED = ("trainer.", "logger.", "experiment")
CLASS = "._target_"  # ends the name of a setting that says which class a section configures
SEEDS = "seed"  # settings of this last name are repetitions of a run, not a sweep


@dataclass(frozen=True)
class Compared:
    """One run: its files, its settings by dotted name, and its rows of metrics.json by source."""

    files: RunFiles
    settings: dict[str, Any]
    rows: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, files: RunFiles) -> Self:
        """Return a run by its files, with the settings that say what was run."""
        settings = {
            name: value
            for name, value in flatten(files.config)
            if name not in NO_SETTING and not name.startswith(NOT_COMPARED)
        }
        return cls(files, settings, {row["source"]: row for row in files.metrics["table"]})

    @property
    def group(self) -> tuple[str, str]:
        """What the paper's table has a row for: data set and architecture."""
        return str(self.files.dataset), str(self.files.model)


def read_compared(folders: Sequence[Path]) -> tuple[list[Compared], list[str]]:
    """Return the runs in the order of their swept numbers, else as given, and why each other folder is left out."""
    compared, problems = [], []
    for folder in dict.fromkeys(folders):
        try:
            layout = RunDirectory(folder)
            files = RunFiles(folder, read_metrics(layout.metrics), config=read_config(layout.config))
        except UserError as error:
            problems.append(str(error))
            continue
        if not (files.dataset and files.model):
            problems.append(f"{layout.config} names no task.data.dataset and task.model.name")
            continue
        compared.append(Compared.of(files))
    return in_order(compared), problems


def in_order(compared: Sequence[Compared]) -> list[Compared]:
    """Sort the runs of each data set and architecture by the settings that set them apart.

    Numbers are sorted by their size; other values keep the order in which the runs were given.
    """
    names = sorted(differing(compared), key=lambda name: name.endswith(SEEDS))  # repetitions stand together
    ordered: list[Compared] = []
    for group in groups(compared).values():
        given = {name: [repr(run.settings.get(name)) for run in group] for name in names}
        places = [[place(run, name, given[name]) for name in names] for run in group]
        ordered += [group[index] for index in sorted(range(len(group)), key=places.__getitem__)]
    return ordered


def place(run: Compared, name: str, given: Sequence[str]) -> float:
    """Return where a run stands by one setting: its number, else the first run that was given with the same value."""
    value = run.settings.get(name)
    if isinstance(value, (int, float)) and is_number(value):
        return float(value)
    return given.index(repr(value))


def differing(compared: Sequence[Compared]) -> list[str]:
    """Name the settings that differ among the runs of one data set and architecture.

    Between groups, most settings follow from the data set or the architecture, and say nothing new. Nor do those of one
    class where other runs have another: there, the class is the setting. Of settings that follow one another through
    all runs, one stands for all: the first number, else the first.
    """
    names: dict[str, None] = {}
    for group in groups(compared).values():
        for name in dict.fromkeys(name for run in group for name in run.settings):
            alike: dict[tuple[Any, ...], set[str]] = {}
            for run in group:
                alike.setdefault(classes_around(run, name), set()).add(repr(run.settings.get(name)))
            if any(len(values) > 1 for values in alike.values()):
                names[name] = None
    standing: dict[tuple[Any, ...], str] = {}
    for name in sorted(names, key=lambda name: not any(is_number(run.settings.get(name)) for run in compared)):
        standing.setdefault(changes(compared, name), name)
    return [name for name in names if name in standing.values()]


def changes(compared: Sequence[Compared], name: str) -> tuple[Any, ...]:
    """Return where a setting changes: equal for settings that follow one another. A seed stands for seeds only."""
    values = [repr(run.settings.get(name)) for run in compared]
    return name.endswith(SEEDS), *map(values.index, values)


def classes_around(run: Compared, name: str) -> tuple[Any, ...]:
    """Return the class of each section that the setting is in; of one that is null, that it is."""
    parts = name.removesuffix(CLASS).split(".")
    sections = [".".join(parts[:end]) for end in range(1, len(parts))]
    return tuple((run.settings.get(section + CLASS), section in run.settings) for section in sections)


def groups(compared: Sequence[Compared]) -> dict[tuple[str, str], list[Compared]]:
    """Return the runs of each data set and architecture."""
    found: dict[tuple[str, str], list[Compared]] = {}
    for run in compared:
        found.setdefault(run.group, []).append(run)
    return found


def numbers_of(run: Compared) -> dict[str, float | None]:
    """Return the columns of the comparison by a name for CSV; accuracies in [0, 1], None where there is none."""
    best, held_out = run.files.metrics["paper_protocol"], run.files.metrics["held_out_protocol"]
    original, p_diff = run.rows.get(ORIGINAL, {}), run.rows.get(GENERATED, {})
    return {
        **{f"{source}_best": best.get(source) for source in PROTOCOL_SOURCES},
        "original_mean": original.get("accuracy_mean"),
        "p_diff_mean": p_diff.get("accuracy_mean"),
        **{f"{source}_held_out": held_out.get(source) for source in PROTOCOL_SOURCES},
        "p_diff_max_iou": p_diff.get("max_iou_mean"),
    }


COLUMNS = {
    "original_best": Column("original %", "The best on test, as in the paper"),
    "ensemble_best": Column("ensemble %"),
    "p_diff_best": Column("p_diff %", "The best on test, as in the paper"),
    "original_mean": Column("original mean %"),
    "p_diff_mean": Column("p_diff mean %"),
    **{f"{source}_held_out": Column(f"{source} held out %") for source in PROTOCOL_SOURCES},
    "p_diff_max_iou": Column("p_diff max IoU"),
}


def comparison_table(compared: Sequence[Compared]) -> Table:
    """Return a row per run: its name, what sets it apart, its numbers, and the paper's own where there are any."""
    apart, published = differing(compared), [from_paper(run.files) for run in compared]
    columns = [
        Column("data set, model"),
        *(Column(name.removesuffix(CLASS)) for name in apart),
        *(COLUMNS[name] for name in numbers_of(compared[0])),
    ]
    if any(published):
        columns.append(Column("paper: original / ensemble / p_diff"))
    rows = []
    for run, paper in zip(compared, published, strict=True):
        label = ", ".join(run.group)
        cells = [Cell(label, label), *(setting_cell(name, run.settings.get(name)) for name in apart)]
        cells += [
            Cell((number if name.endswith("iou") else percent)(value), value) for name, value in numbers_of(run).items()
        ]
        if any(published):
            shown = [" / ".join(f"{100 * row[source]:.1f}" for source in PROTOCOL_SOURCES) for row in paper.values()]
            cells.append(Cell("; ".join(shown) or ABSENT))
        rows.append(cells)
    return Table(columns, rows)


def setting_cell(name: str, value: Any) -> Cell:
    """Return a setting: a class without its package, a list without its brackets, an absent one as a dash."""
    if value is None:
        return Cell(ABSENT)
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = text.rpartition(".")[2] if name.endswith(CLASS) else text
    return Cell(text, text)


def comparison_csv(compared: Sequence[Compared]) -> str:
    """Return the same as CSV at full precision, with the folder of each run."""
    apart = differing(compared)
    header = ["run", "dataset", "model", *apart, *numbers_of(compared[0])]
    return csv_text(
        header,
        [
            [run.files.path, *run.group, *(run.settings.get(name) for name in apart), *numbers_of(run).values()]
            for run in compared
        ],
    )


def write_comparison(compared: Sequence[Compared], folder: Path) -> Iterator[Path]:
    """Write compare.md, compare.csv, and sweep_<setting>.png and .svg; yields what was written."""
    for name, text in (
        ("compare.md", comparison_table(compared).markdown() + "\n"),
        ("compare.csv", comparison_csv(compared)),
    ):
        with replacing(folder / name) as temporary:
            temporary.write_text(text)
        yield folder / name
    for name in swept(compared):
        short = name.removesuffix(CLASS)
        yield from save(sweep_figure(short, lines(compared, name)), folder, f"sweep_{short}").values()


def swept(compared: Sequence[Compared]) -> list[str]:
    """Name the settings that runs differ in on purpose; seeds are repetitions instead."""
    return [name for name in differing(compared) if not name.endswith(SEEDS)]


def is_number(value: Any) -> bool:
    """Tell whether a setting is a number; a switch is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def lines(compared: Sequence[Compared], name: str) -> Mapping[str, list[Point]]:
    """Group runs into one line per combination of the other settings, for a plot over one setting.

    Values are numbers if all of them are, else words.
    """
    others = [other for other in swept(compared) if other != name]
    numeric = all(is_number(run.settings[name]) for run in compared if run.settings.get(name) is not None)
    found: dict[str, list[Point]] = {}
    for group, runs in groups(compared).items():
        values = {
            run.files.path: run.settings.get(name) if numeric else setting_cell(name, run.settings.get(name)).text
            for run in runs
        }
        if len(set(values.values())) < 2:
            continue
        apart = [other for other in others if len({repr(run.settings.get(other)) for run in runs}) > 1]
        for run in runs:
            if (value := values[run.files.path]) is not None:
                shown = (
                    f"{other.removesuffix(CLASS)}={setting_cell(other, run.settings.get(other)).text}"
                    for other in apart
                )
                numbers = numbers_of(run)
                point = Point(
                    value,
                    numbers["p_diff_mean"],
                    numbers["p_diff_best"],
                    numbers["original_mean"],
                    numbers["p_diff_max_iou"],
                )
                found.setdefault(", ".join([*group, *shown]), []).append(point)
    return found
