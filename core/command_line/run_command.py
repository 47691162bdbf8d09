"""The handling of errors in every command, and the start of commands without Hydra."""

import errno
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.runtime.errors import UserError, format_error
from core.runtime.interruption import Interrupted, end_on_signals
from core.runtime.quiet import quiet_lightning

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # a full disk, a limit of the size of files, a full quota


@contextmanager
def exit_on_mistake(*library_errors: type[Exception]) -> Iterator[None]:
    """Exit with one line on stderr and status 1 after a user's mistake, and with status 128 + n after signal n.

    Status 130 is that of Ctrl-C. A full disk counts as a mistake wherever it is found, since libraries write files,
    too. All other errors are bugs and keep their traceback.

    Args:
        *library_errors: Errors of libraries that also count as a user's mistake, besides `UserError`.
    """
    mistakes: tuple[type[Exception], ...] = (UserError, *library_errors)
    try:
        with end_on_signals():
            yield
    except mistakes as error:
        sys.exit(f"error: {format_error(error)}")
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            sys.exit(
                f"error: there is no room on the disk ({format_error(error)}). Free disk space, and run the same "
                "command again to resume"
            )
        if (interruption := find_interruption(error)) is None:
            raise
        sys.stderr.write(
            f"\nInterrupted by {interruption.signal_name}. "
            "Run the same command again to resume from the last saved state.\n"
        )
        sys.exit(interruption.code)


def find_interruption(error: BaseException | None) -> Interrupted | None:
    """Return the signal that caused the error, because libraries may fail in other ways while they end; None for none.

    Lightning turns Ctrl-C into SystemExit(1), or fails during its clean-up.
    """
    while error is not None:
        if isinstance(error, Interrupted):
            return error
        if isinstance(error, KeyboardInterrupt):
            return Interrupted(signal.SIGINT)
        error = error.__cause__ or error.__context__
    return None


def run_command(main: Callable[[], int | None]) -> None:
    """Run `main` with logging to stderr and errors handled by `exit_on_mistake`; exit with the status it returns."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    quiet_lightning()
    with exit_on_mistake():
        status = main() or 0
        sys.stdout.flush()
    sys.exit(status)
