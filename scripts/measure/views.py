"""Views of measured results: the tables, numbers and sentences that README and docs show.

A view takes the results that a mark names, and the words that follow its name in the mark. A condition, such as
`task.param.k=50`, chooses the runs with this value of a setting, or with `folder=NAME` the run of this folder.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from core.evaluation.verdict import Decision, read_doubt
from core.report.cells import format_percent, format_signed, markdown
from core.report.compared_runs import CLASS, ComparedRun, sort_runs
from core.report.comparison_table import build_table, setting_cell
from core.report.repetitions import Estimate, build_repeated_source_table, build_repetition_table
from core.report.run_files import RunFiles
from core.report.source_table import format_source_table
from core.report.tables import format_protocol_table, read_sentences
from core.runtime.errors import UserError
from scripts import compare_rules
from scripts.benchmark import growth, samplers
from scripts.benchmark.__main__ import format_table
from scripts.measure.result import Result

FOLDER = "folder"
# Measures whose names start like this are shown in percent.
IN_PERCENT = ("accuracy", "ece", "near_copies", "copies", "outside_span")
STAGES = {
    "train_task": "train the classifier",
    "collect": "collect checkpoints",
    "autoencoder": "train the autoencoder",
    "diffusion": "train the denoiser",
    "generate": "generate models",
    "score": "score all sources",
}


def open_runs(results: Sequence[Result], *conditions: str) -> list[ComparedRun]:
    """Return the runs of several results that fulfill all conditions, in the order of what sets them apart.

    Raises:
        UserError: No run fulfills them.
    """
    kept = [run for result in results for run in result.data]
    runs = sort_runs(
        [ComparedRun.from_files(RunFiles(Path(run["folder"]), run["metrics"], config=run["config"])) for run in kept]
    )
    chosen = [run for run in runs if all(fulfills(run, condition) for condition in conditions)]
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


def show_sources(results: Sequence[Result], *conditions: str) -> str:
    """Return the table over sources of one run."""
    return format_source_table(open_run(results, *conditions).files.metrics)


def show_protocols(results: Sequence[Result], *conditions: str) -> str:
    """Return the two protocols of one run."""
    return format_protocol_table(open_run(results, *conditions).files.metrics)


def show_verdict(results: Sequence[Result], *conditions: str) -> str:
    """Return the headline of one run's verdict as a quotation."""
    return f"> {read_sentences(open_run(results, *conditions).files.metrics)[0]}"


def show_comparison(results: Sequence[Result], *conditions: str) -> str:
    """Return one row per run."""
    return build_table(open_runs(results, *conditions)).markdown()


def show_repetitions(results: Sequence[Result], *conditions: str) -> str:
    """Return one row per group of runs that differ in their seeds only, with t-intervals."""
    table = build_repetition_table(open_runs(results, *conditions))
    if table is None:
        raise UserError(f"{name_files(results)} holds no repeated runs, so there is no interval to show")
    return table.markdown()


def show_repeated_sources(results: Sequence[Result], *conditions: str) -> str:
    """Return one row per source, averaged over runs that differ in their seeds only."""
    return build_repeated_source_table(open_runs(results, *conditions)).markdown()


def read_measure(run: ComparedRun, source: str, key: str) -> float:
    """Return one measure of one source; raise `UserError` if the run does not have it."""
    if key not in run.rows.get(source, {}):
        raise UserError(f"{run.files.path} has no {key} of {source}")
    return float(run.rows[source][key])


def choose_format(key: str) -> tuple[float, int]:
    """Return the scale and the number of decimals in which a measure is shown."""
    return (100, 2) if key.startswith(IN_PERCENT) else (1, 3)


def show_mean(results: Sequence[Result], source: str, key: str, *conditions: str) -> str:
    """Return one measure of one source: its value, or mean ± half-width of the 95% interval over several trainings."""
    values = [read_measure(run, source, key) for run in open_runs(results, *conditions)]
    return format_estimate(values, key)


def show_difference(results: Sequence[Result], source: str, other: str, key: str, *conditions: str) -> str:
    """Return a measure of one source minus that of another source of the same run, with its sign, like `show_mean`."""
    runs = open_runs(results, *conditions)
    values = [read_measure(run, source, key) - read_measure(run, other, key) for run in runs]
    return format_estimate(values, key, sign=True)


def format_estimate(values: Sequence[float], key: str, *, sign: bool = False) -> str:
    """Return one value, or the mean ± half-width of several."""
    scale, decimals = choose_format(key)
    estimate = Estimate.from_trainings(values)
    if estimate is not None:
        return estimate.format(scale, decimals, sign=sign)
    return format_signed(values[0], scale, decimals) if sign else f"{scale * values[0]:.{decimals}f}"


def show_value(results: Sequence[Result], source: str, key: str, *conditions: str) -> str:
    """Return one measure of one source of one run."""
    scale, decimals = choose_format(key)
    return f"{scale * read_measure(open_run(results, *conditions), source, key):.{decimals}f}"


def show_change(results: Sequence[Result], source: str, key: str, *conditions: str) -> str:
    """Return the change of a measure from one run to another, with its sign; `to` separates their conditions."""
    if "to" not in conditions:
        raise UserError(
            f"a change needs the conditions of two runs, with the word to between them, not {' '.join(conditions)}"
        )
    middle = conditions.index("to")
    first, last = (
        read_measure(open_run(results, *chosen), source, key)
        for chosen in (conditions[:middle], conditions[middle + 1 :])
    )
    return format_signed(last - first, *choose_format(key))


def show_range(results: Sequence[Result], source: str, key: str, *conditions: str) -> str:
    """Return the smallest and the largest value of a measure over several runs."""
    scale, decimals = choose_format(key)
    values = [scale * read_measure(run, source, key) for run in open_runs(results, *conditions)]
    return f"{min(values):.{decimals}f} to {max(values):.{decimals}f}"


def show_expected(results: Sequence[Result], source: str, key: str, *conditions: str) -> str:
    """Return the range in which one more training is expected with 95% probability.

    The range is mean ± t(0.975, n − 1) · s · √(1 + 1/n), which is √(n + 1) times as wide as the interval of the mean.
    """
    values = [read_measure(run, source, key) for run in open_runs(results, *conditions)]
    estimate = Estimate.from_trainings(values)
    if estimate is None:
        raise UserError(f"{name_files(results)} holds one training, so the spread of trainings is unknown")
    scale, decimals = choose_format(key)
    half_width = estimate.half_width * (len(values) + 1) ** 0.5
    low, high = (scale * (estimate.mean + sign * half_width) for sign in (-1, 1))
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def show_variance_kept(results: Sequence[Result], *conditions: str) -> str:
    """Return the share of the variance among the checkpoints that the autoencoder of one run keeps, in percent."""
    return f"{100 * open_run(results, *conditions).files.metrics['verdict']['variance_kept']:.0f}%"


def show_outcomes(results: Sequence[Result], *conditions: str) -> str:
    """Return a sentence that counts the verdicts of several trainings against their references."""
    verdicts = [run.files.metrics["verdict"] for run in open_runs(results, *conditions)]
    named = "best free source" if all("reference" in verdict for verdict in verdicts) else "most accurate average"
    accuracy = [Decision(find_reference(verdict)["accuracy_is"]) for verdict in verdicts]
    novelty = [decide_newness(find_reference(verdict)) for verdict in verdicts]
    return (
        f"Compared with the {named} of the checkpoints, in {len(verdicts)} trainings, p_diff was measurably more "
        f"accurate in {accuracy.count(Decision.BETTER)}, measurably less accurate in {accuracy.count(Decision.WORSE)}, "
        f"and neither in {accuracy.count(Decision.UNDECIDED)}. It was measurably newer (lower max IoU) in "
        f"{novelty.count(Decision.BETTER)}, measurably less new in {novelty.count(Decision.WORSE)}, and neither in "
        f"{novelty.count(Decision.UNDECIDED)}."
    )


def find_reference(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the comparison with the best free source; in earlier results, with the most accurate average."""
    reference = verdict.get("reference") or verdict["best_average"]
    (row,) = (row for row in verdict["comparisons"] if row["baseline"] == reference)
    return row


def decide_newness(row: dict[str, Any]) -> Decision:
    """Return the decision on newness, in which a difference in max IoU that accuracy may explain is undecided."""
    return Decision.UNDECIDED if read_doubt(row) else Decision(row["max_iou_is"])


def show_seconds(results: Sequence[Result], *conditions: str) -> str:
    """Return the mean seconds of each stage and its share, over several trainings."""
    runs = [run.files.metrics["seconds"] for run in open_runs(results, *conditions)]
    stages = {label: mean(run.get(stage, 0.0) for run in runs) for stage, label in STAGES.items()}
    total = sum(stages.values())
    rows = [[label, f"{seconds:.1f}", format_percent(seconds / total)] for label, seconds in stages.items()]
    return markdown(["stage", "seconds", "share %"], [*rows, ["all stages", f"{total:.1f}", format_percent(1.0)]])


def show_minutes(results: Sequence[Result]) -> str:
    """Return the whole minutes that one run took on average, rounded up; for a benchmark, those of the whole."""
    runs = sum(len(result.data) if isinstance(result.data, list) else 1 for result in results)
    return str(int(-(-sum(result.seconds for result in results) // (60 * runs))))


def show_cores(results: Sequence[Result]) -> str:
    """Return the number of CPU cores of the machine that measured."""
    return " and ".join(sorted({str(result.provenance["cores"]) for result in results}))


def show_origin(results: Sequence[Result]) -> str:
    """Return when, where, with which code and by which command the results were measured, as one sentence."""
    newest = max(results, key=lambda result: result.provenance["time"])
    about = newest.provenance
    commits = sorted({result.provenance["git"].get("commit", "unknown")[:7] for result in results})
    commands = "python -m scripts.measure " + " ".join(result.name for result in results)
    return (
        f"Measured on {about['time'][:10]} with `{commands}` at commit {' and '.join(commits)}, "
        f"torch {about['versions']['torch']}, {about['device']}, {about['cores']} cores."
    )


def show_rules(results: Sequence[Result]) -> str:
    """Return the comparison of the rules for choosing one model."""
    return compare_rules.build_table(results[0].data["rows"]).markdown()


def show_benchmark(results: Sequence[Result], stage: str) -> str:
    """Return the table of one stage of the benchmark."""
    tables = {"growth": growth.format_table, "samplers": samplers.format_table}
    return tables.get(stage, format_table)(results[0].data[stage])


VIEWS: dict[str, Callable[..., str]] = {
    "sources": show_sources,
    "protocols": show_protocols,
    "verdict": show_verdict,
    "comparison": show_comparison,
    "repetitions": show_repetitions,
    "repeated_sources": show_repeated_sources,
    "mean": show_mean,
    "difference": show_difference,
    "value": show_value,
    "change": show_change,
    "range": show_range,
    "expected": show_expected,
    "variance_kept": show_variance_kept,
    "outcomes": show_outcomes,
    "seconds": show_seconds,
    "minutes": show_minutes,
    "cores": show_cores,
    "origin": show_origin,
    "rules": show_rules,
    "benchmark": show_benchmark,
}
