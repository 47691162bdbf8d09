"""A user's mistake, told in one sentence."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user asked for: shown as one sentence, without a traceback.

    The sentence names the offending value, what was expected, and what to do.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The part of an error sentence that suggests what `name` may have been meant to be."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known ones are {', '.join(known[:20])}"
