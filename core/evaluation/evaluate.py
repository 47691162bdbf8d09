"""Score every source and keep the tables, or take those that are already there."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from core.evaluation.scores import ScoreFn, ScoreTable
from core.evaluation.soup import greedy_soup
from core.evaluation.sources import MakeVectors
from core.evaluation.summary import PROTOCOL_SOURCES
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)
SOUP_SOURCES = ("original", "p_diff")
OF_THE_GENERATOR = ("p_diff", "reconstructed", "soup_p_diff")


def evaluate(
    made: Mapping[str, MakeVectors],
    score_fns: Mapping[str, ScoreFn],
    run: RunDirectory,
    *,
    shared: Path,
    encode: Callable[[Tensor], Tensor],
    soup_candidates: int,
    identity: str,
    shared_identity: str,
    reuse: bool,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> dict[str, ScoreTable]:
    """One table per source, saved in the run directory as soon as it is scored.

    Test scores every source; the other splits those among which a model is chosen. The greedy soups of the originals
    and of the generated models come last, since they are made from the scores of those on validation.

    Args:
        made: from `sources`.
        shared: folder for the tables that do not depend on the generator; every run over the same checkpoints finds them there.
        encode: vectors (M, D) to standardized latents (M, L).
        identity: of everything that the numbers depend on.
        shared_identity: the same without the generator.
        reuse: take a saved table with the same identity instead of scoring again.
    """
    tables: dict[str, ScoreTable] = {}

    def soup(source: str) -> Tensor:
        table = tables[source]
        return greedy_soup(torch.from_numpy(table.vectors_MD), table.scores["val"], score_fns["val"], soup_candidates)

    every = {**made, **{f"soup_{source}": partial(soup, source) for source in SOUP_SOURCES}}
    for source in progress(every):
        path, common = run.scores(source), None if source in OF_THE_GENERATOR else shared / f"{source}.npz"
        table = stored_table(path, identity) if reuse else None
        if table is None and common and reuse and (known := stored_table(common, shared_identity)):
            table = replace(known, identity=identity, latents_ML=encode(torch.from_numpy(known.vectors_MD)).numpy())
            table.save(path)
        if table is None:
            start = time.perf_counter()
            vectors_MD = every[source]()
            scores = {split: score_fns[split](vectors_MD) for split in splits_of(source)}
            table = ScoreTable(
                source, vectors_MD.numpy(), scores, identity, time.perf_counter() - start, encode(vectors_MD).numpy()
            )
            table.save(path)
            if common:
                replace(table, identity=shared_identity, latents_ML=None).save(common)
        tables[source] = table
    return tables


def splits_of(source: str) -> tuple[str, ...]:
    """Which splits a source is scored on."""
    if source in PROTOCOL_SOURCES:
        return "train", "val", "test"
    return ("val", "test") if source.startswith("soup_") else ("test",)


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
