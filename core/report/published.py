"""Published numbers of the paper for the same dataset and architecture.

`published/paper.csv` holds the paper's tables (best accuracy in percent), `published/logs.csv` the result logs that the
paper's authors released (fractions).
"""

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from core.evaluation.kinds import GENERATED, ORIGINAL, PROTOCOL_SOURCES
from core.report.cells import ABSENT, Cell, Column, Table, format_number, format_percent
from core.report.metric_words import MetricWords
from core.report.run_files import RunFiles

FOLDER = Path(__file__).with_name("published")
ALIASES = {"oxfordiiitpet": "pets", "oxfordpets": "pets", "imagenet1k": "imagenet", "flowers": "flowers102"}


def normalize_name(name: str) -> str:
    """Return one spelling for "CIFAR-100" and "cifar100", for "ViT-Tiny" and "vit_tiny_patch16_224.augreg"."""
    letters = re.sub(r"[^a-z0-9]", "", re.sub(r"(_patch\d+)?(_\d{3})?(\..*)?$", "", name.lower()))
    return ALIASES.get(letters, letters)


@cache
def read_rows(file: str) -> tuple[Mapping[str, str], ...]:
    """Return the rows of one of the CSV files."""
    with (FOLDER / file).open(newline="") as lines:
        return tuple(csv.DictReader(lines))


def find_rows(run: RunFiles, file: str) -> list[Mapping[str, str]]:
    """Return the rows of a file that have this run's dataset and architecture; none for a metric but accuracy."""
    if not (run.dataset and run.model and MetricWords.read(run.metrics).is_accuracy):
        return []
    wanted = normalize_name(run.dataset), normalize_name(run.model)
    return [
        row
        for row in read_rows(file)
        if (normalize_name(row["dataset"]), normalize_name(row["architecture"])) == wanted
    ]


def find_paper_accuracies(run: RunFiles) -> dict[str, Mapping[str, float]]:
    """Return {version: {"original", "ensemble", "p_diff"}}, best accuracies in [0, 1] from the paper's tables."""
    rows = [row for row in find_rows(run, "paper.csv") if row["subset"] == subset_kind(run)]
    return {f"paper, {row['version']}": {name: float(row[name]) / 100 for name in PROTOCOL_SOURCES} for row in rows}


def subset_kind(run: RunFiles) -> str:
    """Return the generated subset as the paper's tables name it.

    The paper generates the last normalization layers, or all parameters of small networks. It has no table for other
    subsets.
    """
    subset = run.task_setting("param", "subset") or "last_norms"
    return subset if isinstance(subset, str) else "a list"


def find_log_rows(run: RunFiles) -> dict[str, Mapping[str, str]]:
    """Return {label: row} of the authors' logs: the row of the main table, and the ablation row with this run's K."""
    k = run.task_setting("param", "k")
    category = {"last_norms": "main", "all": "full"}.get(subset_kind(run))
    rows = [row for row in find_rows(run, "logs.csv") if row["category"] == category]
    known = {row["num_checkpoint"] for row in rows}  # The ablation repeats the row of the main table with the same K.
    if category == "main" and str(k) not in known:
        rows += [row for row in find_rows(run, "logs.csv") if row["tag"] == f"numberckpt_{k}"]
    return {f"its logs, {row['tag']}": row for row in rows}


def build_published_table(run: RunFiles) -> Table | None:
    """Return this run's numbers above the published numbers, or None if none were published for its settings."""
    paper, logs = find_paper_accuracies(run), find_log_rows(run)
    if not (paper or logs):
        return None
    by_source = {row["source"]: row for row in run.metrics["table"]}
    original, p_diff = by_source.get(ORIGINAL, {}), by_source.get(GENERATED, {})
    best = run.metrics["paper_protocol"]
    values: dict[str, dict[str, Any]] = {
        "this run": {
            "k": original.get("n"),
            "m": p_diff.get("n"),
            **{f"{source}_best": best.get(source) for source in PROTOCOL_SOURCES},
            "original_mean": original.get("accuracy_mean"),
            "p_diff_mean": p_diff.get("accuracy_mean"),
            "max_iou": p_diff.get("max_iou_mean"),
        }
    }
    values |= {name: {f"{source}_best": value for source, value in row.items()} for name, row in paper.items()}
    for name, row in logs.items():
        values[name] = {"k": int(row["num_checkpoint"]), "m": int(row["num_generated"])}
        fields = {
            "original_best": "orig_max",
            "p_diff_best": "gen_max",
            "original_mean": "orig_mean",
            "p_diff_mean": "gen_mean",
            "max_iou": "iou_orig_gen_max",
        }
        values[name] |= {ours: float(row[theirs]) for ours, theirs in fields.items()}
    return Table(
        [Column("from"), *(column for _, column, _ in PUBLISHED)],
        [[Cell(name, name), *published_cells(row)] for name, row in values.items()],
    )


def published_cells(values: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of one row, a dash where a number was not published."""
    return [
        Cell(ABSENT if values.get(key) is None else show(values[key]), values.get(key)) for key, _, show in PUBLISHED
    ]


PUBLISHED = (
    ("k", Column("K", "number of checkpoints"), str),
    ("m", Column("M", "number of generated models"), str),
    ("original_best", Column("original best %", "test accuracy of the best checkpoint on test"), format_percent),
    ("ensemble_best", Column("ensemble %", "test accuracy of the mean of all checkpoints"), format_percent),
    ("p_diff_best", Column("p_diff best %", "test accuracy of the best generated model on test"), format_percent),
    ("original_mean", Column("original mean %", "mean test accuracy of the checkpoints"), format_percent),
    ("p_diff_mean", Column("p_diff mean %", "mean test accuracy of the generated models"), format_percent),
    (
        "max_iou",
        Column(
            "p_diff max IoU",
            "share of wrong test images in common with the most similar checkpoint, mean over the generated models",
        ),
        format_number,
    ),
)
