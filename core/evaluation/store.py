"""Storage of score tables on disk, so that an unchanged source is not scored twice."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.evaluation.scores import ScoreTable
from core.evaluation.sources import Source
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from core.runtime.settings import hash_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """The digests of all settings and files that the numbers of a table depend on."""

    run: str  # digest of all settings, for tables that only one run uses
    # The digest without the settings of the generator, for tables that runs over the same checkpoints share.
    shared: str

    @classmethod
    def from_settings(cls, common: Mapping[str, Any], generator: Mapping[str, Any]) -> "Identity":
        """Return the digests of the settings of all sources (`common`) and of the settings of the generator."""
        return cls(hash_settings({**common, **generator}), hash_settings(common))


class ScoreStore:
    """The score tables of one run, and the tables that all runs over the same checkpoints share.

    Args:
        run: Run directory that stores all tables.
        identity: The digests that a stored table must have to be reused.
        encode: Maps vectors (M, D) to standardized latents (M, L) of the generator; shared tables have no latents.
        checkpoints: Checkpoints file, next to which shared tables are stored; None turns sharing off.
        reuse: Whether `get` reads stored tables; if False, it always returns None.
    """

    def __init__(
        self,
        run: RunDirectory,
        identity: Identity,
        *,
        encode: Callable[[Tensor], Tensor],
        checkpoints: Path | None = None,
        reuse: bool = True,
    ):
        self.run, self.identity, self.encode = run, identity, encode
        self.checkpoints, self.reuse = checkpoints, reuse

    def get(self, source: Source) -> ScoreTable | None:
        """Return the stored or shared table of a source, or None if the source must be scored."""
        if not self.reuse:
            return None
        if (own := read_table(self.run.scores(source.name), self.identity.run)) is not None:
            return own
        shared = self._shared_path(source)
        found = read_table(shared, self.identity.shared) if shared else None
        return self._save_to_run(found) if found is not None else None

    def put(self, source: Source, table: ScoreTable) -> ScoreTable:
        """Save a newly scored table and return it with its identity, kind and latents."""
        saved = self._save_to_run(replace(table, stored_kind=source.kind))
        if shared := self._shared_path(source):
            replace(saved, identity=self.identity.shared, latents_ML=None).save(shared)
        return saved

    def _save_to_run(self, table: ScoreTable) -> ScoreTable:
        latents_ML = self.encode(torch.from_numpy(table.vectors_MD)).numpy()
        saved = replace(table, identity=self.identity.run, latents_ML=latents_ML)
        saved.save(self.run.scores(table.source))
        return saved

    def _shared_path(self, source: Source) -> Path | None:
        if source.needs_generator or self.checkpoints is None:
            return None
        return self.run.shared_scores(self.checkpoints, self.identity.shared, source.name)


def read_table(path: Path, identity: str) -> ScoreTable | None:
    """Return the table in a file, or None if the file is missing, damaged or has another identity."""
    if not path.is_file():
        return None
    try:
        table = ScoreTable.load(path)
    except UserError as error:
        log.warning("%s", error)
        return None
    return table if table.identity == identity else None
