"""Storage of score tables on disk, so that an unchanged source is not scored twice."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoints.subset import ParameterSubset
from core.evaluation.scores import ScoreTable
from core.evaluation.sources import Source
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from core.runtime.settings import describe_differences, find_differences, hash_settings

log = logging.getLogger(__name__)
CODE = "code"  # the section of an identity that holds digests of source code
GENERATOR = "generator"  # the section that the store adds for tables that depend on the generator
CODE_SECTIONS = (f"{CODE}.", f"{GENERATOR}.{CODE}.")
MOST_NAMED = 4  # names of changed code in one log line
# The settings of an identity that are digests, of which a log line says only that they have changed, and the sections
# of digests, where {} stands for a name.
DIGESTS = {"checkpoints": "the set of checkpoints", "generator.fingerprint": "the generator"}
DIGEST_SECTIONS = {"images": "the {} split", "ood": "the set of images {}", "groups": "the grouping of {} images"}
UNKNOWN = "they do not record what they depend on, because an older version stored them"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that the numbers of the score tables depend on, as settings and digests that fit into JSON."""

    common: Mapping[str, Any]  # for all sources: checkpoints, images, options, precision, seed
    # Additionally for sources that need the generator, and for the latents of all tables; with the code that samples.
    generator: Mapping[str, Any]
    code: Mapping[str, str]  # digests of the source code that scores, by name

    @property
    def folder(self) -> str:
        """The name of the folder in which runs over the same checkpoints share their tables.

        It does not depend on source code, so that a table of earlier code is found, named in the log and replaced.
        """
        return hash_settings(self.common)

    def describe_run(self, source: Source) -> dict[str, Any]:
        """Return the identity of a table that only one run uses."""
        return self.describe_shared(source) | json_copy({GENERATOR: self.generator})

    def describe_shared(self, source: Source) -> dict[str, Any]:
        """Return the identity of a table that all runs over the same checkpoints share."""
        return json_copy({**self.common, "source": source.settings, CODE: {**self.code, **source.code}})


class ScoreStore:
    """The score tables of one run, and the tables that all runs over the same checkpoints share.

    Args:
        run: Run directory that stores all tables.
        identity: The settings and digests that a stored table must have to be reused.
        encode: Maps vectors (M, D) to standardized latents (M, L) of the generator; shared tables have no latents.
        checkpoints: Checkpoints file, next to which shared tables are stored; None turns sharing off.
        subset: The meaning of the vectors, which tables keep if there are updates; None keeps nothing.
        reuse: Whether `find` reads stored tables; if False, it finds none.
    """

    def __init__(
        self,
        run: RunDirectory,
        identity: Identity,
        *,
        encode: Callable[[Tensor], Tensor],
        checkpoints: Path | None = None,
        subset: ParameterSubset | None = None,
        reuse: bool = True,
    ):
        self.run, self.identity, self.encode = run, identity, encode
        self.checkpoints, self.reuse = checkpoints, reuse
        self.subset = subset if subset is not None and subset.updates else None

    def find(self, sources: Iterable[Source]) -> dict[str, ScoreTable]:
        """Return the stored and shared tables of all sources that need not be scored again, by source.

        The log says why the other stored tables are not reused, with one line for each reason.
        """
        found: dict[str, ScoreTable] = {}
        refused: dict[str, list[str]] = {}  # reason -> names of sources
        for source in sources if self.reuse else ():
            table, reason = self._find_one(source)
            if table is not None:
                found[source.name] = table
            elif reason:
                refused.setdefault(reason, []).append(source.name)
        for reason, names in refused.items():
            log.info("The stored scores of %s are computed again, because %s", ", ".join(names), reason)
        if found:
            log.info("Reusing the stored scores of %d sources", len(found))
        return found

    def put(self, source: Source, table: ScoreTable) -> ScoreTable:
        """Save a newly scored table and return it with its identity, kind and latents."""
        saved = self._save_to_run(source, replace(table, stored_kind=source.kind, subset=self.subset))
        if shared := self._shared_path(source):
            identity = json.dumps(self.identity.describe_shared(source))
            replace(saved, identity=identity, latents_ML=None).save(shared)
        return saved

    def _find_one(self, source: Source) -> tuple[ScoreTable | None, str]:
        """Return the table of a source, or None and the reason why a stored table is not reused."""
        in_run, shared = self.identity.describe_run(source), self.identity.describe_shared(source)
        reason = ""
        for path in filter(None, (self.run.scores(source.name), self._shared_path(source))):
            if (table := read_table(path)) is None:
                continue
            if not explain(table, in_run):
                return table, ""
            # Without the generator, only the latents of a table differ, and these are computed again.
            if not (differing := explain(table, in_run if source.needs_generator else shared)):
                return self._save_to_run(source, table), ""
            reason = reason or differing
        return None, reason

    def _save_to_run(self, source: Source, table: ScoreTable) -> ScoreTable:
        latents_ML = self.encode(torch.from_numpy(table.vectors_MD)).numpy()
        saved = replace(table, identity=json.dumps(self.identity.describe_run(source)), latents_ML=latents_ML)
        saved.save(self.run.scores(table.source))
        return saved

    def _shared_path(self, source: Source) -> Path | None:
        if source.needs_generator or self.checkpoints is None:
            return None
        return self.run.shared_scores(self.checkpoints, self.identity.folder, source.name)


def read_table(path: Path) -> ScoreTable | None:
    """Return the table in a file, or None if the file is missing or damaged."""
    if not path.is_file():
        return None
    try:
        return ScoreTable.load(path)
    except UserError as error:
        log.warning("%s", error)
        return None


def explain(table: ScoreTable, identity: Mapping[str, Any]) -> str:
    """Return why a stored table must not be reused for `identity`; empty if it may be.

    The generator of the table is compared only if `identity` has one.
    """
    try:
        stored = json.loads(table.identity)
    except ValueError:
        stored = None
    if not isinstance(stored, Mapping):  # older versions stored one hash of everything
        return UNKNOWN
    differing = find_differences(
        {name: value for name, value in stored.items() if name != GENERATOR or name in identity}, identity
    )
    digests = {name: words for name in differing if (words := name_digest(name))}
    changed = [*digests.values()]
    changed += [name.partition(f"{CODE}.")[2] for name in differing if name.startswith(CODE_SECTIONS)]
    if (more := len(changed) - MOST_NAMED) > 0:
        changed[MOST_NAMED:] = [f"{more} more"]
    rest = {name: pair for name, pair in differing.items() if name not in digests}
    rest = {name: pair for name, pair in rest.items() if not name.startswith(CODE_SECTIONS)}
    reasons = [f"{' and '.join(changed)} {'has' if len(changed) == 1 else 'have'} changed"] if changed else []
    return "; ".join([*reasons, describe_differences(rest)] if rest else reasons)


def name_digest(setting: str) -> str:
    """Return what a setting is the digest of; empty if it is no digest."""
    section, _, name = setting.partition(".")
    return DIGESTS.get(setting) or (DIGEST_SECTIONS.get(section, "").format(name) if name else "")


def json_copy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as JSON gives them back, for example with lists instead of tuples."""
    return dict(json.loads(json.dumps(settings)))
