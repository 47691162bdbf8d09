"""User mistakes and the one-line messages that report them."""

import difflib
import logging
import re
from collections.abc import Iterable

from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)


class UserError(ValueError):
    """A mistake in the user's settings or files; commands print it as one line without a traceback.

    The message names the invalid value, the expected values and what to set.
    """


def suggest_names(name: str, known: Iterable[str]) -> str:
    """Return the part of an error message that suggests known names close to `name`, or else lists up to 20."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known ones are {', '.join(known[:20])}"


def format_error(error: Exception) -> str:
    """Return the error as one line, unwrapping Hydra and DataLoader errors; log the traceback at level debug."""
    log.debug("full traceback", exc_info=error)
    original = error.__cause__ if isinstance(error.__cause__, UserError) else error
    text = str(original)
    # A DataLoader puts the traceback of its worker process into the message; the last line holds the error.
    if in_worker := re.search(r"^\S*UserError: (.*)\Z", text, re.MULTILINE | re.DOTALL):
        text = in_worker[1]
    elif target := re.match(r"Error locating target '(.*)', set env var .*full_key: (\S*)", text, re.DOTALL):
        name = f"{target[2]}._target_"
        text = f"{name}={target[1]} cannot be imported. Set {name} to a class or function that exists"
    elif isinstance(original, OmegaConfBaseException):
        text = text.partition("\n")[0]  # the other lines are internals of OmegaConf
    return " ".join(text.split())
