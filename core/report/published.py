"""Published numbers of the paper and its logs for the same data set and architecture.

published/paper.csv: the paper's tables (best accuracy in percent); published/logs.csv: its result logs (fractions).
"""

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from core.evaluation.kinds import GENERATED, ORIGINAL, PROTOCOL_SOURCES
from core.report.cells import Cell, Column, Table, number, percent
from core.report.run_files import RunFiles

FOLDER = Path(__file__).with_name("published")
ALIASES = {"oxfordiiitpet": "pets", "oxfordpets": "pets", "imagenet1k": "imagenet", "flowers": "flowers102"}


def plain(name: str) -> str:
    """Return the same for "CIFAR-100" and "cifar100", for "ViT-Tiny" and "vit_tiny_patch16_224.augreg"."""
    letters = re.sub(r"[^a-z0-9]", "", re.sub(r"(_patch\d+)?(_\d{3})?(\..*)?$", "", name.lower()))
    return ALIASES.get(letters, letters)


@cache
def rows_of(file: str) -> tuple[Mapping[str, str], ...]:
    """Return the rows of one of the CSV files."""
    with (FOLDER / file).open(newline="") as lines:
        return tuple(csv.DictReader(lines))


def same_setting(run: RunFiles, file: str) -> list[Mapping[str, str]]:
    """Return the rows of a file with this run's data set and architecture."""
    if not (run.dataset and run.model):
        return []
    wanted = plain(run.dataset), plain(run.model)
    return [row for row in rows_of(file) if (plain(row["dataset"]), plain(row["architecture"])) == wanted]


def from_paper(run: RunFiles) -> dict[str, Mapping[str, float]]:
    """Return {version: {"original", "ensemble", "p_diff"}}, best accuracies in [0, 1] of the paper's tables."""
    rows = [row for row in same_setting(run, "paper.csv") if row["subset"] == subset_kind(run)]
    return {f"paper, {row['version']}": {name: float(row[name]) / 100 for name in PROTOCOL_SOURCES} for row in rows}


def subset_kind(run: RunFiles) -> str:
    """Name the generated subset as the paper's tables do.

    The paper generates the last norm layers, or all parameters of small networks; it has no table for other choices.
    """
    subset = run.config.get("task", {}).get("param", {}).get("subset", "last_norms")
    return subset if isinstance(subset, str) else "a list"


def from_logs(run: RunFiles) -> dict[str, Mapping[str, str]]:
    """Return {label: row} of the logs: the main table's row, and that of the ablation over K where its K is ours."""
    k = run.config.get("task", {}).get("param", {}).get("k")
    category = {"last_norms": "main", "all": "full"}.get(subset_kind(run))
    rows = [row for row in same_setting(run, "logs.csv") if row["category"] == category]
    known = {row["num_checkpoint"] for row in rows}  # the ablation repeats the main table's row for its K
    if category == "main" and str(k) not in known:
        rows += [row for row in same_setting(run, "logs.csv") if row["tag"] == f"numberckpt_{k}"]
    return {f"its logs, {row['tag']}": row for row in rows}


def beside_ours(run: RunFiles) -> Table | None:
    """Return published numbers for this data set and architecture under our own; None where nothing was published."""
    paper, logs = from_paper(run), from_logs(run)
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
        [[Cell(name, name), *cells(row)] for name, row in values.items()],
    )


def cells(values: Mapping[str, Any]) -> list[Cell]:
    """Return one row of the table of published numbers."""
    return [Cell("–" if values.get(key) is None else show(values[key]), values.get(key)) for key, _, show in PUBLISHED]


PUBLISHED = (
    ("k", Column("K", "Checkpoints"), str),
    ("m", Column("M", "Generated models"), str),
    ("original_best", Column("original best %"), percent),
    ("ensemble_best", Column("ensemble %"), percent),
    ("p_diff_best", Column("p_diff best %"), percent),
    ("original_mean", Column("original mean %"), percent),
    ("p_diff_mean", Column("p_diff mean %"), percent),
    ("max_iou", Column("p_diff max IoU"), number),
)
