"""The policy for errors of every command line, and the start of those without Hydra."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.runtime.errors import UserError, sentence
from core.runtime.quiet import quiet_lightning

log = logging.getLogger(__name__)


@contextmanager
def mistakes_in_one_sentence(*also: type[Exception]) -> Iterator[None]:
    """End the process with one sentence on stderr and status 1 for a user's mistake, with status 130 for Ctrl-C.

    Anything else is a bug of ours and keeps its traceback.

    Args:
        *also: Errors besides `UserError` by which a library tells of a user's mistake.
    """
    mistakes: tuple[type[Exception], ...] = (UserError, *also)
    try:
        yield
    except mistakes as error:
        sys.exit(f"error: {sentence(error)}")
    except (KeyboardInterrupt, SystemExit) as stop:  # inside a fit, Lightning turns Ctrl-C into SystemExit(1)
        if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        log.info("stopped; run the same command again to resume it")
        sys.exit(130)


def run_command(main: Callable[[], int | None]) -> None:
    """Run `main` under the policy for errors, with logging to stderr, and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    quiet_lightning()
    with mistakes_in_one_sentence():
        status = main() or 0
        sys.stdout.flush()
    sys.exit(status)
