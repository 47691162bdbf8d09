"""Score tables on disk under the identity of everything that they depend on, so that none is scored twice."""

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
from core.runtime.settings import digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Digests of everything that the numbers of a table depend on."""

    run: str
    shared: str  # the same without the generator

    @classmethod
    def of(cls, common: Mapping[str, Any], generator: Mapping[str, Any]) -> "Identity":
        """Return the identities of settings that all sources depend on, and of those that the generator adds."""
        return cls(digest({**common, **generator}), digest(common))


class ScoreStore:
    """Score tables of one run, and those that every run over the same checkpoints shares.

    Args:
        run: whose folder keeps all tables.
        identity: of the tables asked for now; a stored one is only given back under the same identity.
        encode: vectors (M, D) to standardized latents (M, L) of the run's generator, which shared tables leave out.
        checkpoints: their file, beside which shared tables lie; None shares nothing.
        reuse: whether `get` looks for stored tables at all.
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
        """Return the stored table of a source, also one that another run shares; None where it has to be scored."""
        if not self.reuse:
            return None
        if (own := stored_table(self.run.scores(source.name), self.identity.run)) is not None:
            return own
        shared = self._shared(source)
        known = stored_table(shared, self.identity.shared) if shared else None
        return self._keep(known) if known is not None else None

    def put(self, source: Source, table: ScoreTable) -> ScoreTable:
        """Save a table that was just scored, and return it as it is kept."""
        kept = self._keep(replace(table, stored_kind=source.kind))
        if shared := self._shared(source):
            replace(kept, identity=self.identity.shared, latents_ML=None).save(shared)
        return kept

    def _keep(self, table: ScoreTable) -> ScoreTable:
        latents_ML = self.encode(torch.from_numpy(table.vectors_MD)).numpy()
        kept = replace(table, identity=self.identity.run, latents_ML=latents_ML)
        kept.save(self.run.scores(table.source))
        return kept

    def _shared(self, source: Source) -> Path | None:
        if source.needs_generator or self.checkpoints is None:
            return None
        return self.run.shared_scores(self.checkpoints, self.identity.shared, source.name)


def stored_table(path: Path, identity: str) -> ScoreTable | None:
    """Return the saved table, if it is there, whole, and of this identity."""
    if not path.is_file():
        return None
    try:
        table = ScoreTable.load(path)
    except UserError as error:
        log.warning("%s", error)
        return None
    return table if table.identity == identity else None
