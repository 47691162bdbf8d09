"""Console input and output that several scripts share; standard library only, so that it runs without the packages."""

import argparse
import sys
from textwrap import indent


def make_parser(prog: str, doc: str | None, note: str = "") -> argparse.ArgumentParser:
    """Return a parser whose help shows a description and examples.

    Args:
        prog: The command as the user types it.
        doc: The docstring of the script: a description, an empty line, and one example command per line.
        note: One more sentence for the description.
    """
    description, _, examples = (doc or "").strip().partition("\n\n")
    return argparse.ArgumentParser(
        prog=prog,
        description=f"{description}\n{note}".rstrip(),
        epilog=f"examples:\n{indent(examples, '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def print_line(text: str) -> None:
    """Write a line to stdout and flush it, since the next one may take minutes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
