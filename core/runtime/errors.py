"""A user's mistake, told in one sentence."""

import difflib
import logging
import re
from collections.abc import Iterable

from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)


class UserError(ValueError):
    """A mistake in what the user asked for: shown as one sentence, without a traceback.

    The sentence names the offending value, what was expected, and what to do.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the part of an error sentence that suggests what `name` may have been meant to be."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known ones are {', '.join(known[:20])}"


def sentence(error: Exception) -> str:
    """Return the error as one line, unwrapping Hydra and DataLoader errors; the log has the rest at level debug."""
    log.debug("in full", exc_info=error)
    told = error.__cause__ if isinstance(error.__cause__, UserError) else error
    if in_worker := re.search(r"^\S*UserError: (.*)\Z", str(told), re.MULTILINE | re.DOTALL):
        return " ".join(in_worker[1].split())
    return str(told).splitlines()[0] if isinstance(told, OmegaConfBaseException) else " ".join(str(told).split())
