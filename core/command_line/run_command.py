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
    except (KeyboardInterrupt, SystemExit, Exception) as stop:
        if not came_of_an_interrupt(stop):
            raise
        log.info("\nstopped; run the same command again to resume it from the last state that was saved")
        sys.exit(130)


def came_of_an_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is behind an error: Lightning turns it into SystemExit(1), or fails while it cleans up."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def run_command(main: Callable[[], int | None]) -> None:
    """Run `main` under the policy for errors, with logging to stderr, and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    quiet_lightning()
    with mistakes_in_one_sentence():
        status = main() or 0
        sys.stdout.flush()
    sys.exit(status)
