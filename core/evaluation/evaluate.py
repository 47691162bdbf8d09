"""Score every source and keep the tables, or take those that are already there."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from core.evaluation.scores import ScoreFn, ScoreTable
from core.evaluation.sources import MakeVectors
from core.evaluation.summary import PROTOCOL_SOURCES
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)


def evaluate(
    made: Mapping[str, MakeVectors],
    score_fns: Mapping[str, ScoreFn],
    run: RunDirectory,
    *,
    identity: str,
    reuse: bool,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> dict[str, ScoreTable]:
    """One table per source, saved in the run directory as soon as it is scored.

    Test scores all sources; validation those among which a model is chosen.

    Args:
        made: from `sources`.
        identity: of everything that the numbers depend on.
        reuse: take a saved table with the same identity instead of scoring again.
    """
    tables = {}
    for source in progress(made):
        path = run.scores(source)
        table = stored_table(path, identity) if reuse else None
        if table is None:
            vectors_MD, start = made[source](), time.perf_counter()
            splits = ("val", "test") if source in PROTOCOL_SOURCES else ("test",)
            scores = {split: score_fns[split](vectors_MD) for split in splits}
            table = ScoreTable(source, vectors_MD.numpy(), scores, identity, time.perf_counter() - start)
            table.save(path)
        tables[source] = table
    return tables


def stored_table(path: Path, identity: str) -> ScoreTable | None:
    """The saved table, if it is there, whole, and of this identity."""
    if not path.is_file():
        return None
    try:
        table = ScoreTable.load(path)
    except UserError as error:
        log.warning("%s", error)
        return None
    return table if table.identity == identity else None
