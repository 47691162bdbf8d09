"""The worth of models that vote together, as a table with one row per source."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.evaluation.groups import Group
from core.report.cells import ABSENT, Cell, Column, Table, format_interval, format_number, format_percent
from core.report.source_table import GROUP_COLUMN, list_rows, read_group

COLUMNS = (
    Column("models", "number of models that vote, which are all models of the source; the figures show equal numbers"),
    Column("accuracy %", "test accuracy of the vote, which averages the probabilities of the models"),
    Column("95% interval", "95% interval of the column to the left, from a bootstrap over test images"),
    Column("loss", "negative log-likelihood of the vote on test in nats, after the temperature; lower is better"),
    Column("interval", "95% interval of the loss, from a bootstrap over test images"),
    Column(
        "temperature",
        "number that divides the logarithms of the averaged probabilities, fitted on validation; above 1, the vote is "
        "too confident",
    ),
    Column("Brier", "squared error of the probabilities, summed over classes; lower is better"),
    Column("ECE %", "expected calibration error, the difference between confidence and accuracy; lower is better"),
    Column(
        "AURC",
        "area under the risk–coverage curve: the mean error if only the most confident share of the images is "
        "answered, over all shares; lower is better",
    ),
    Column("disagreement %", "share of pairs of voting models that predict different classes; higher is more diverse"),
)
EQUIVALENT = Column(
    "equivalent",
    "deep-ensemble equivalent: the number of independently trained networks whose vote reaches the same loss; > marks "
    "a loss that all of them together do not reach (Ashukha et al. 2020)",
)


def explain_auroc(name: str) -> Column:
    """Return the column of one set of images that belong to no class."""
    return Column(
        f"AUROC {name}",
        f"probability that the vote is less confident on an image of {name}, which belongs to no class, than on a test "
        "image; 0.5 is chance, and higher is better",
    )


def find_largest_votes(worth: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the vote of the most models of each source."""
    return {row["source"]: row for row in sorted(worth, key=lambda row: row["n_models"])}


def find_groups(metrics: Mapping[str, Any]) -> dict[str, Group]:
    """Return the group of each source of metrics.json, in the order of the groups."""
    return {row["source"]: read_group(row) for row in list_rows(metrics)}


def build_worth_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the vote of all models of each source; None in files without votes."""
    votes, groups = find_largest_votes(metrics.get("worth", [])), find_groups(metrics)
    if not votes:
        return None
    ood = list(dict.fromkeys(name for row in votes.values() for name in row.get("auroc") or {}))
    has_equivalent = any(row.get("equivalent") is not None for row in votes.values())
    rows = [
        [
            Cell(source, source),
            Cell(group.value, group.value),
            *describe_vote(votes[source]),
            *(number_cell((votes[source].get("auroc") or {}).get(name)) for name in ood),
            *([equivalent_cell(votes[source].get("equivalent"))] if has_equivalent else []),
        ]
        for source, group in groups.items()
        if source in votes
    ]
    columns = [Column("source"), GROUP_COLUMN, *COLUMNS, *map(explain_auroc, ood)]
    return Table([*columns, *([EQUIVALENT] if has_equivalent else [])], rows)


def describe_vote(row: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of `COLUMNS`."""
    return [
        Cell(str(row["n_models"]), row["n_models"]),
        percent_cell(row.get("accuracy")),
        interval_cell(row.get("accuracy_interval"), 100, 2),
        number_cell(row.get("loss"), 4),
        interval_cell(row.get("loss_interval"), 1, 4),
        number_cell(row.get("temperature"), 2),
        number_cell(row.get("brier"), 4),
        percent_cell(row.get("ece")),
        number_cell(row.get("aurc"), 4),
        percent_cell(row.get("disagreement")),
    ]


def percent_cell(value: float | None) -> Cell:
    """Return the cell of a share in percent."""
    return Cell(format_percent(value), value)


def number_cell(value: float | None, decimals: int = 3) -> Cell:
    """Return the cell of a number."""
    return Cell(format_number(value, decimals), value)


def interval_cell(ends: Sequence[float] | None, scale: float, decimals: int) -> Cell:
    """Return the cell of an interval, which is sorted by its lower end."""
    return Cell(ABSENT) if ends is None else Cell(format_interval(ends, scale, decimals), ends[0])


def equivalent_cell(value: float | str | None) -> Cell:
    """Return the cell of a deep-ensemble equivalent, such as 3.2 or "> 5", which is sorted by its number."""
    if isinstance(value, str):
        number = value.lstrip("> ")
        return Cell(f"> {number}", float(number))
    return number_cell(value, 1)
