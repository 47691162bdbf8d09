"""Stderr as a terminal or a log file, and the text that a reader sees on it."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def states(self) -> list[str]:
        """Every text that was ever written on a line of its own or over another one."""
        return [state for state in re.split(r"[\r\n]+", self.getvalue()) if state.strip()]

    @property
    def screen(self) -> list[str]:
        """The lines that are left at the end; the last one is the line of the cursor."""
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for text in line.split("\r"):
                shown = text + shown[len(text) :]  # new text overwrites only as much as it is long
            lines.append(shown.rstrip())
        return lines


@contextmanager
def stderr_as(stream: io.StringIO) -> Iterator[io.StringIO]:
    """Replace stderr inside the block."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "stderr", stream)
        yield stream
