"""Views of measured results: the tables, numbers and sentences that README and docs show.

A view takes the results that a mark names, and the words that follow its name in the mark. A condition, such as
`task.param.k=50`, chooses the runs with this value of a setting, or with `folder=NAME` the run of this folder.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean

from core.evaluation.verdict import Decision, Novelty
from core.report.cells import format_percent, format_signed, markdown
from core.report.comparison_table import build_table, read_words
from core.report.repetitions import build_repeated_source_table, build_repetition_table
from core.report.source_table import format_source_table
from core.report.tables import format_protocol_table, read_sentences
from core.runtime.errors import UserError
from scripts import compare_rules
from scripts.benchmark import growth, samplers
from scripts.benchmark.__main__ import format_table
from scripts.measure.numbers import (
    choose_format,
    estimate_trainings,
    find_comparison,
    find_reference,
    format_estimate,
    read_measure,
)
from scripts.measure.result import Result
from scripts.measure.selection import name_files, open_run, open_runs
from scripts.measure.short_tables import format_chosen_sources, format_labeled_table, format_short_table, list_ahead

STAGES = {
    "train_task": "train the classifier",
    "collect": "collect checkpoints",
    "autoencoder": "train the autoencoder",
    "diffusion": "train the denoiser",
    "generate": "generate models",
    "score": "score all sources",
}


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


def show_short(results: Sequence[Result], *conditions: str) -> str:
    """Return one row per setting, with the columns that a page needs."""
    return format_short_table(open_runs(results, *conditions))


def show_labeled(results: Sequence[Result], labels: str, *conditions: str) -> str:
    """Return one row per run like `show_short`, with the labels of a list in place of settings.

    The labels are separated by commas, with underscores for spaces. Runs are in the order of results and folders.
    """
    runs = [
        run
        for result in results
        for run in sorted(open_runs([result], *conditions), key=lambda run: str(run.files.path))
    ]
    return format_labeled_table(runs, labels.replace("_", " ").split(","))


def show_chosen_sources(results: Sequence[Result], sources: str, *conditions: str) -> str:
    """Return one row per source of a list, and per free source that is more accurate than p_diff."""
    return format_chosen_sources(open_runs(results, *conditions), sources.split(","))


def show_mean(results: Sequence[Result], source: str, key: str, *conditions: str) -> str:
    """Return one measure of one source: its value, or mean ± half-width of the 95% interval over several trainings."""
    runs = open_runs(results, *conditions)
    return format_estimate([read_measure(run, source, key) for run in runs], key, read_words(runs))


def show_difference(results: Sequence[Result], source: str, other: str, key: str, *conditions: str) -> str:
    """Return a measure of one source minus that of another source of the same run, with its sign, like `show_mean`."""
    runs = open_runs(results, *conditions)
    values = [read_measure(run, source, key) - read_measure(run, other, key) for run in runs]
    return format_estimate(values, key, read_words(runs), sign=True)


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
    estimate = estimate_trainings(values)
    scale, decimals = choose_format(key)
    half_width = estimate.half_width * (len(values) + 1) ** 0.5
    low, high = (scale * (estimate.mean + sign * half_width) for sign in (-1, 1))
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def show_chance(results: Sequence[Result], source: str, key: str, *conditions: str) -> str:
    """Return the difference that two single trainings exceed with 5% probability by chance, t(0.975, n − 1) · s · √2.

    It is √(2n) times as large as half the interval of the mean of n trainings.
    """
    values = [read_measure(run, source, key) for run in open_runs(results, *conditions)]
    scale, decimals = choose_format(key)
    return f"{scale * estimate_trainings(values).half_width * (2 * len(values)) ** 0.5:.{decimals}f}"


def show_lead(results: Sequence[Result], source: str, *conditions: str) -> str:
    """Return the accuracy of p_diff minus that of a source in points, with the interval of the verdict of one run."""
    row = find_comparison(open_run(results, *conditions).files.metrics["verdict"], source)
    low, high = (format_signed(end, 100, 2) for end in row["accuracy_interval"])
    level = f"{100 * row['accuracy_level']:.3g}%"
    return f"{format_signed(row['accuracy_difference'], 100, 2)} ({level} interval {low} to {high})"


def show_ahead(results: Sequence[Result], *conditions: str) -> str:
    """Return the names of the free sources whose mean accuracy exceeds that of p_diff, the most accurate one first."""
    return list_words([f"`{source}`" for source in list_ahead(open_runs(results, *conditions))])


def show_references(results: Sequence[Result], *conditions: str) -> str:
    """Return the names of the references of several runs, with the number of runs if they differ."""
    counts = Counter(
        find_reference(run.files.metrics["verdict"])["baseline"] for run in open_runs(results, *conditions)
    )
    if len(counts) == 1:
        return f"`{next(iter(counts))}`"
    return list_words([f"`{source}` ({count} of {counts.total()})" for source, count in counts.most_common()])


def show_variance_kept(results: Sequence[Result], *conditions: str) -> str:
    """Return the share of the variance among the checkpoints that the autoencoder of one run keeps, in percent."""
    share = open_run(results, *conditions).files.metrics["verdict"]["variance_kept"]
    return f"{100 * share:.0f}%".replace("-", "−")


def show_outcomes(results: Sequence[Result], *conditions: str) -> str:
    """Return a sentence that counts the answers and the novelties of several verdicts."""
    runs = open_runs(results, *conditions)
    verdicts, words = [run.files.metrics["verdict"] for run in runs], read_words(runs)
    answers = Counter(Decision(verdict["answer"]) for verdict in verdicts)
    novelties = Counter(Novelty(verdict["novelty"]) for verdict in verdicts if "novelty" in verdict)
    named = list_words([f"{novelty} in {count}" for novelty, count in novelties.most_common()])
    said = f"The verdict calls its models {named}." if novelties else "It was not measured whether they are new."
    return (
        f"In {len(verdicts)} trainings, p_diff was measurably {words.better} than every free source in "
        f"{answers[Decision.BETTER]}, measurably {words.worse} than one of them in {answers[Decision.WORSE]}, and "
        f"neither in {answers[Decision.UNDECIDED]}. {said}"
    )


def list_words(words: Sequence[str]) -> str:
    """Return words as an enumeration, and "none" for no words."""
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + list(words[-1:])) or "none"


def show_seconds(results: Sequence[Result], *conditions: str) -> str:
    """Return the mean seconds of each stage and its share, over several trainings."""
    runs = [run.files.metrics["seconds"] for run in open_runs(results, *conditions)]
    stages = {label: mean(run.get(stage, 0.0) for run in runs) for stage, label in STAGES.items()}
    total = sum(stages.values())
    rows = [[label, f"{seconds:.1f}", format_percent(seconds / total)] for label, seconds in stages.items()]
    return markdown(["stage", "seconds", "share %"], [*rows, ["all stages", f"{total:.1f}", format_percent(1.0)]])


def show_stages(results: Sequence[Result]) -> str:
    """Return the mean seconds of each stage over the trainings of each result, with one column per result."""
    runs = [[run.files.metrics["seconds"] for run in open_runs([result])] for result in results]
    columns = [[mean(seconds.get(stage, 0.0) for seconds in trainings) for stage in STAGES] for trainings in runs]
    rows = [[label, *(f"{column[index]:.0f}" for column in columns)] for index, label in enumerate(STAGES.values())]
    rows.append(["all stages", *(f"{sum(column):.0f}" for column in columns)])
    return markdown(["seconds", *(result.name for result in results)], rows)


def show_minutes(results: Sequence[Result]) -> str:
    """Return the whole minutes that one run took on average, rounded up; for a benchmark, those of the whole."""
    runs = sum(len(result.data) if isinstance(result.data, list) else 1 for result in results)
    return str(int(-(-sum(result.seconds for result in results) // (60 * runs))))


def show_cores(results: Sequence[Result]) -> str:
    """Return the number of CPU cores of the machine that measured."""
    return " and ".join(sorted({str(result.provenance["cores"]) for result in results}))


def show_origin(results: Sequence[Result]) -> str:
    """Return when, where, with which code and by which command the results were measured, as one sentence."""
    about = max(results, key=lambda result: result.provenance["time"]).provenance
    days = sorted({result.provenance["time"][:10] for result in results})
    when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    commits = sorted({result.provenance["git"].get("commit", "unknown")[:7] for result in results})
    commands = "python -m scripts.measure " + " ".join(result.name for result in results)
    return (
        f"Measured {when} with `{commands}` at commit {list_words(commits)}, torch {about['versions']['torch']}, "
        f"{about['device']}, {about['cores']} cores."
    )


def show_rules(results: Sequence[Result]) -> str:
    """Return the comparison of the rules for choosing one model."""
    return compare_rules.build_table(results[0].data["rows"]).markdown()


def show_benchmark(results: Sequence[Result], stage: str) -> str:
    """Return the table of one stage of the benchmark."""
    tables = {"growth": growth.format_table, "samplers": samplers.format_table}
    return tables.get(stage, format_table)(results[0].data[stage])


def show_proof(results: Sequence[Result], count: str) -> str:
    """Return one count of a proof, such as the number of kills.

    Raises:
        UserError: The proof has no such count.
    """
    (result,) = results
    if not isinstance(result.data.get(count), int):
        raise UserError(f"{result.name} has no count {count}; it has {', '.join(result.data)}")
    return f"{result.data[count]:,}"


VIEWS: dict[str, Callable[..., str]] = {
    "sources": show_sources,
    "protocols": show_protocols,
    "verdict": show_verdict,
    "comparison": show_comparison,
    "repetitions": show_repetitions,
    "repeated_sources": show_repeated_sources,
    "short": show_short,
    "labeled": show_labeled,
    "chosen_sources": show_chosen_sources,
    "mean": show_mean,
    "difference": show_difference,
    "value": show_value,
    "change": show_change,
    "range": show_range,
    "expected": show_expected,
    "chance": show_chance,
    "lead": show_lead,
    "ahead": show_ahead,
    "references": show_references,
    "variance_kept": show_variance_kept,
    "outcomes": show_outcomes,
    "seconds": show_seconds,
    "stages": show_stages,
    "minutes": show_minutes,
    "cores": show_cores,
    "origin": show_origin,
    "rules": show_rules,
    "benchmark": show_benchmark,
    "proof": show_proof,
}
