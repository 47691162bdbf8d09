"""The handling of errors in every command, and the start of commands without Hydra."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.runtime.errors import UserError, format_error
from core.runtime.quiet import quiet_lightning

log = logging.getLogger(__name__)


@contextmanager
def exit_on_mistake(*library_errors: type[Exception]) -> Iterator[None]:
    """Exit with one line on stderr and status 1 after a user's mistake, and with status 130 after Ctrl-C.

    All other errors are bugs and keep their traceback.

    Args:
        *library_errors: Errors of libraries that also count as a user's mistake, besides `UserError`.
    """
    mistakes: tuple[type[Exception], ...] = (UserError, *library_errors)
    try:
        yield
    except mistakes as error:
        sys.exit(f"error: {format_error(error)}")
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        if not was_interrupted(error):
            raise
        log.info("\nInterrupted. Run the same command again to resume from the last saved state.")
        sys.exit(130)


def was_interrupted(error: BaseException | None) -> bool:
    """Return whether Ctrl-C caused the error; Lightning turns it into SystemExit(1) or fails during its clean-up."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def run_command(main: Callable[[], int | None]) -> None:
    """Run `main` with logging to stderr and errors handled by `exit_on_mistake`; exit with the status it returns."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    quiet_lightning()
    with exit_on_mistake():
        status = main() or 0
        sys.stdout.flush()
    sys.exit(status)
