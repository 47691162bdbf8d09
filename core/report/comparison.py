"""The comparison of several runs: the table, means over repetitions, and one figure per swept setting."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.report.compared_runs import CLASS, ComparedRun, group_runs, is_number, swept_settings
from core.report.comparison_table import build_table, format_comparison_csv, read_numbers, read_words, setting_cell
from core.report.repetitions import build_repeated_source_table, build_repetition_table, group_repetitions
from core.report.style import save
from core.report.sweep_figure import Point, draw_sweep
from core.runtime.artifacts import replace_atomically

SWEEP_CAPTION = (
    "Above: accuracy. Filled markers on solid lines are the mean of the generated models, open markers on dotted lines "
    "the best of them on test, half-filled markers on dashed lines the mean of the checkpoints. Below: the share of "
    "errors that generated models have in common with their most similar checkpoint (max IoU). Small dots are single "
    "runs with the same value.\n\n**Good:** filled markers above half-filled ones, at a low max IoU. **Bad:** filled "
    "markers below half-filled ones, or a max IoU near 1, which means copies."
)
REPETITIONS = (
    "Runs that differ in their seeds only: the mean over these trainings ± half the width of its 95% t-interval."
)


def describe_comparison(runs: Sequence[ComparedRun]) -> str:
    """Return the table of all runs in Markdown, and the means over repeated runs if there are any."""
    parts = [build_table(runs).explained_markdown()]
    if (repetitions := build_repetition_table(runs)) is not None:
        parts += [REPETITIONS, repetitions.markdown()]
        for group in group_repetitions(runs):
            parts += [f"Sources of {', '.join(group[0].group)}:", build_repeated_source_table(group).markdown()]
    return "\n\n".join(parts)


def write_comparison(runs: Sequence[ComparedRun], folder: Path) -> Iterator[Path]:
    """Write compare.md, compare.csv, and sweep_<setting>.png and .svg; yield the path of each file."""
    parts, words = [describe_comparison(runs)], read_words(runs)
    for name in swept_settings(runs):
        short = name.removesuffix(CLASS)
        files = save(draw_sweep(short, build_lines(runs, name), words), folder, f"sweep_{short}")
        parts += [
            f"## {short}",
            f"![{words.title} and max IoU over {short}]({files['svg'].name})",
            words.adapt(SWEEP_CAPTION),
        ]
        yield from files.values()
    for name, text in (("compare.md", "\n\n".join(parts) + "\n"), ("compare.csv", format_comparison_csv(runs))):
        with replace_atomically(folder / name) as temporary:
            temporary.write_text(text)
        yield folder / name


def build_lines(runs: Sequence[ComparedRun], name: str) -> Mapping[str, list[Point]]:
    """Return the points of a figure over one setting, with one line per combination of the other settings.

    The values on the axis are numbers if all values of the setting are numbers, else words.
    """
    others = [other for other in swept_settings(runs) if other != name]
    numeric = all(is_number(run.settings[name]) for run in runs if run.settings.get(name) is not None)
    lines: dict[str, list[Point]] = {}
    for group, members in group_runs(runs).items():
        values = {
            run.files.path: run.settings.get(name) if numeric else setting_cell(name, run.settings.get(name)).text
            for run in members
        }
        if len(set(values.values())) < 2:
            continue
        differing = [other for other in others if len({repr(run.settings.get(other)) for run in members}) > 1]
        for run in members:
            if (value := values[run.files.path]) is not None:
                settings = (
                    f"{other.removesuffix(CLASS)}={setting_cell(other, run.settings.get(other)).text}"
                    for other in differing
                )
                lines.setdefault(", ".join([*group, *settings]), []).append(make_point(run, value))
    return lines


def make_point(run: ComparedRun, value: float | str) -> Point:
    """Return a run as a point of a figure at this value of the swept setting."""
    numbers = read_numbers(run)
    return Point(
        value,
        p_diff_mean=numbers["p_diff_mean"],
        p_diff_best=numbers["p_diff_best"],
        original_mean=numbers["original_mean"],
        max_iou=numbers["p_diff_max_iou"],
    )
