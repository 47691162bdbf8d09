"""The stages of a command on the console: one bar per stage in a terminal, single lines in a log file."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.runtime.stage_progress import ROUNDING, StageProgress, format_seconds

DRAW_SECONDS = 0.1  # shortest time between two redraws of a bar
LINE_SECONDS = 30  # shortest time between two lines of a stage without epochs
LINE_SHARE = 0.01  # smallest share of the work between two of these lines, which limits a stage to 100 lines
SILENCE_SECONDS = 600  # time without a line after which a line is written in any case
MOST_EPOCH_LINES = 50  # largest number of lines for the epochs of one stage


class LogLines(StageProgress):
    """Progress as single lines on stderr, for log files: at the start, after epochs or some time, and at the end."""

    def __init__(self, label: str, detail: str = ""):
        super().__init__(label, detail)
        self._last_line, self._last_epoch_line = (self._start, 0.0), 0.0
        self._end(f"{label}: {detail}" if detail else label)

    def end_epoch(self) -> None:
        """Write a line for the epoch. Of many epochs, only about `MOST_EPOCH_LINES` get a line."""
        if self._done - self._last_epoch_line >= 1 / MOST_EPOCH_LINES - ROUNDING or self._done >= 1 - ROUNDING:
            self._last_epoch_line = self._done
            self._write_state()

    def _update(self) -> None:
        if self._closed:
            return
        then, done = self._last_line
        waited = time.perf_counter() - then
        counts_epochs = any(part.by_epochs for part in self._parts)
        if self._done >= 1 - ROUNDING:  # `close` writes the last line
            return
        is_due = not counts_epochs and waited >= LINE_SECONDS and self._done - done >= LINE_SHARE
        if is_due or waited >= SILENCE_SECONDS:
            self._write_state(f"{100 * self._done:.0f} %")

    def _write_state(self, *more: str) -> None:
        now = time.perf_counter()
        self._last_line = now, self._done
        self._end(f"{self.label}: {self._state(*more, f'{format_seconds(now - self._start)} elapsed')}")

    def _end(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class _Bar(tqdm):
    """A bar whose format may name the state of the stage."""

    state = ""

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that a format may name."""
        return {**super().format_dict, "state": self.state}


class TerminalBar(StageProgress):
    """Progress as one bar on stderr, which one line replaces at the end of the stage."""

    def __init__(self, label: str, detail: str = ""):
        super().__init__(label, detail)
        self._bar: _Bar | None = None
        self._logging, self._drawn = ExitStack(), 0.0
        self._draw()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the bar itself, because a process of trainer=ddp draws its own."""
        return {**vars(self), "_bar": None, "_logging": ExitStack(), "is_copy": True}

    def end_epoch(self) -> None:
        """Draw the metrics of the epoch."""
        self._draw()

    def clear(self) -> None:
        """Remove the bar from the terminal, until there is something new to show."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._logging.close()

    def _update(self) -> None:
        if time.perf_counter() - self._drawn >= DRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        if self._closed:
            return
        self._drawn = time.perf_counter()
        if self._bar is None:
            self._logging.enter_context(logging_redirect_tqdm())  # log lines appear above the bar, not inside it
            self._bar = _Bar(
                total=1.0, bar_format="{state}", leave=False, position=0, dynamic_ncols=True, file=sys.stderr
            )
        self._bar.n = self._done
        if self._done > 0:
            state = self._state()
            self._bar.bar_format = "{desc} {percentage:3.0f} %|{bar:20}| {state}"
            self._bar.set_description_str(self.label, refresh=False)
        else:
            state = ": ".join(filter(None, [self.label, self._state() or self.detail]))
        self._bar.state = state
        self._bar.refresh()

    def _end(self, line: str) -> None:
        self.clear()
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class Stages:
    """The stages of a command, numbered in the order given, shown and timed."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.seconds: dict[str, float] = {}
        self.progress = StageProgress()  # progress of the current stage

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[StageProgress]:
        """Show and time the block as stage `name`; a stage that raises gets no time.

        Args:
            name: One of the names given to the constructor.
            detail: The amount of work, for example "2000 steps".
        """
        label = f"[{self.names.index(name) + 1}/{len(self.names)}] {name.replace('_', ' ')}"
        self.progress = TerminalBar(label, detail) if is_terminal() else LogLines(label, detail)
        start = time.perf_counter()
        try:
            yield self.progress
        except BaseException:
            self.progress.close(finished=False)
            raise
        self.progress.close()
        self.seconds[name] = round(time.perf_counter() - start, 2)


def is_terminal() -> bool:
    """Return whether stderr is a terminal that can show a bar, which a pseudo-terminal without a size cannot."""
    if not sys.stderr.isatty():
        return False
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except OSError:  # a stream that has no file descriptor
        return True
