"""What the command lines here share: logging to stderr, and one sentence for a user's mistake."""

import logging
import sys
from collections.abc import Callable

from core.runtime.errors import UserError, sentence


def run_command(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its status; a `UserError` is one sentence on stderr and status 1, Ctrl-C status 130.

    Anything else is a bug of ours and keeps its traceback.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        status = main() or 0
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {sentence(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status)
