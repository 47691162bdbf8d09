"""Many runs side by side: the paper's Table 1 shape, and which settings were swept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.report.cells import ABSENT, Cell, Column, Table, csv_text, number, percent
from core.report.published import from_paper
from core.report.run_files import RunFiles, read_config, read_metrics
from core.report.style import save
from core.report.sweep_figure import Point, sweep_figure
from core.runtime.artifacts import replacing
from core.runtime.errors import UserError
from core.runtime.settings import flatten

SOURCES = ("original", "ensemble", "p_diff")
NO_SETTING = (
    "mode",
    "output_dir",
    "task.param.path",
    "task.collect.kind",  # follows from what else stands there; earlier versions did not write it
    "task.data.root",
    "task.data.num_workers",
)  # where and how, not what
NOT_COMPARED = ("trainer.", "logger.", "experiment")
CLASS = "._target_"  # ends the name of a setting that says which class a section configures
SEEDS = "seed"  # settings of this last name are repetitions of a run, not a sweep


@dataclass(frozen=True)
class Compared:
    """One run: its files, its settings by dotted name, and its rows of metrics.json by source."""

    files: RunFiles
    settings: dict[str, Any]
    rows: dict[str, dict[str, Any]]

    @property
    def group(self) -> tuple[str, str]:
        """What the paper's table has a row for: data set and architecture."""
        return str(self.files.dataset), str(self.files.model)


def read_compared(folders: Sequence[Path]) -> tuple[list[Compared], list[str]]:
    """(runs in the order of their swept numbers, else as given; why each of the other folders is left out)."""
    compared, problems = [], []
    for folder in dict.fromkeys(folders):
        try:
            files = RunFiles(folder, read_metrics(folder / "metrics.json"), read_config(folder / "config.yaml"))
            if not (files.dataset and files.model):
                raise UserError(f"{folder / 'config.yaml'} names no task.data.dataset and task.model.name")
        except UserError as error:
            problems.append(str(error))
            continue
        settings = {
            name: value
            for name, value in flatten(files.config)
            if name not in NO_SETTING and not name.startswith(NOT_COMPARED)
        }
        compared.append(Compared(files, settings, {row["source"]: row for row in files.metrics["table"]}))
    return in_order(compared), problems


def in_order(compared: Sequence[Compared]) -> list[Compared]:
    """The runs of each data set and architecture together, by the numbers that set them apart; what is no number keeps the given order."""
    swept = sorted(differing(compared), key=lambda name: name.endswith(SEEDS))  # repetitions stand together

    def place(run: Compared) -> list[float]:
        values = [run.settings.get(name) for name in swept]
        return [
            float(value) if is_number(value) else given[name].index(repr(value)) for name, value in zip(swept, values)
        ]

    ordered = []
    for group in groups(compared).values():
        given = {name: [repr(run.settings.get(name)) for run in group] for name in swept}
        ordered += sorted(group, key=place)
    return ordered


def differing(compared: Sequence[Compared]) -> list[str]:
    """Settings that differ among the runs of one data set and architecture.

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
    """Where a setting changes: equal for settings that follow one another. A seed stands for seeds only."""
    values = [repr(run.settings.get(name)) for run in compared]
    return name.endswith(SEEDS), *map(values.index, values)


def classes_around(run: Compared, name: str) -> tuple[Any, ...]:
    """The class of each section that the setting is in; of one that is null, that it is."""
    parts = name.removesuffix(CLASS).split(".")
    sections = [".".join(parts[:end]) for end in range(1, len(parts))]
    return tuple((run.settings.get(section + CLASS), section in run.settings) for section in sections)


def groups(compared: Sequence[Compared]) -> dict[tuple[str, str], list[Compared]]:
    """The runs of each data set and architecture."""
    found: dict[tuple[str, str], list[Compared]] = {}
    for run in compared:
        found.setdefault(run.group, []).append(run)
    return found


def numbers_of(run: Compared) -> dict[str, float | None]:
    """The columns of the comparison by a name for CSV; accuracies in [0, 1], None where there is none."""
    protocols = run.files.metrics["paper_protocol"], run.files.metrics["held_out_protocol"]
    best, held_out = ({source: protocol.get(source) for source in SOURCES} for protocol in protocols)
    p_diff = run.rows.get("p_diff", {})
    return {
        **{f"{source}_best": best[source] for source in SOURCES},
        **{f"{source}_mean": run.rows.get(source, {}).get("accuracy_mean") for source in ("original", "p_diff")},
        **{f"{source}_held_out": held_out[source] for source in SOURCES},
        "p_diff_max_iou": p_diff.get("max_iou_mean"),
    }


COLUMNS = {
    "original_best": Column("original %", "The best on test, as in the paper"),
    "ensemble_best": Column("ensemble %"),
    "p_diff_best": Column("p_diff %", "The best on test, as in the paper"),
    "original_mean": Column("original mean %"),
    "p_diff_mean": Column("p_diff mean %"),
    **{f"{source}_held_out": Column(f"{source} held out %") for source in SOURCES},
    "p_diff_max_iou": Column("p_diff max IoU"),
}


def comparison_table(compared: Sequence[Compared]) -> Table:
    """A row per run: its name, what sets it apart, the paper's three columns, means, held out; the paper's own numbers if any."""
    swept, published = differing(compared), [from_paper(run.files) for run in compared]
    columns = [
        Column("data set, model"),
        *(Column(name.removesuffix(CLASS)) for name in swept),
        *(COLUMNS[name] for name in numbers_of(compared[0])),
    ]
    if any(published):
        columns.append(Column("paper: original / ensemble / p_diff"))
    rows = []
    for run, paper in zip(compared, published):
        label = ", ".join(run.group)
        cells = [Cell(label, label), *(setting_cell(name, run.settings.get(name)) for name in swept)]
        cells += [
            Cell((number if name.endswith("iou") else percent)(value), value) for name, value in numbers_of(run).items()
        ]
        if any(published):
            shown = [" / ".join(f"{100 * row[source]:.1f}" for source in SOURCES) for row in paper.values()]
            cells.append(Cell("; ".join(shown) or ABSENT))
        rows.append(cells)
    return Table(columns, rows)


def setting_cell(name: str, value: Any) -> Cell:
    """A setting, a class without its package, a list without its brackets; one that this run does not have is a dash."""
    if value is None:
        return Cell(ABSENT)
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = text.rpartition(".")[2] if name.endswith(CLASS) else text
    return Cell(text, text)


def comparison_csv(compared: Sequence[Compared]) -> str:
    """The same at full precision, with the folder of each run."""
    swept = differing(compared)
    header = ["run", "dataset", "model", *swept, *numbers_of(compared[0])]
    return csv_text(
        header,
        [
            [run.files.path, *run.group, *(run.settings.get(name) for name in swept), *numbers_of(run).values()]
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
    """Settings that runs differ in on purpose; seeds are repetitions instead."""
    return [name for name in differing(compared) if not name.endswith(SEEDS)]


def is_number(value: Any) -> bool:
    """A switch is no number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def lines(compared: Sequence[Compared], name: str) -> Mapping[str, list[Point]]:
    """{what is the same along a line: its points}, for a plot over one setting, by number if all its values are numbers, else by word."""
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
