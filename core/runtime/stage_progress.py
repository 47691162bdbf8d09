"""Progress of one stage: which share of its work is done, and an estimate of the time left."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")
ROUNDING = 1e-9  # rounding error of a share that is a sum of many steps


@dataclass
class Part:
    """One part of a stage, on the scale from 0 (the stage starts) to 1 (it is done)."""

    end: float = 1.0
    unit: float = 1.0  # length of one unit of this part
    name: str = ""  # shown with the metrics while the part runs
    metrics: dict[str, float] = field(default_factory=dict)
    by_epochs: bool = False  # whether the part calls `end_epoch`


class StageProgress:
    """Progress of one stage and the time left; this class shows nothing, its subclasses do.

    The work of a stage is divided into parts, which may be divided again. A stage starts as one part of one unit.
    The time left is estimated from the work of this session alone. `skip` counts the work of earlier sessions.
    """

    is_copy = False  # whether this object was sent to another process

    def __init__(self, label: str = "", detail: str = ""):
        self.label, self.detail = label, detail
        self.loss: float | None = None  # loss at the end of training, shown in the last line
        self._parts = [Part()]
        self._done = self._skipped = 0.0  # shares of the stage
        self._start = time.perf_counter()
        self._first: tuple[float, float] | None = None  # time and work after the first step, which may be a slow one
        self._closed = False

    @property
    def share(self) -> float:
        """The share of the stage that is done, from 0 to 1."""
        return self._done

    @property
    def seconds_left(self) -> float | None:
        """The estimate for the rest of the stage; None while the rate is unknown."""
        if self._first is None:
            return None
        since, before = self._first
        worked = self._done - self._skipped - before
        return (1 - self._done) * (time.perf_counter() - since) / worked if worked > 0 else None

    @contextmanager
    def part(self, work: float = 1.0, *, units: float = 1.0, name: str = "", by_epochs: bool = False) -> Iterator[None]:
        """Count what the block advances as one part of the work; the end of the block completes the part.

        Args:
            work: Size of the part, in units of the part around it.
            units: Number of units inside the block, for `advance`, `skip` and inner parts.
            name: Shown during the block.
            by_epochs: Whether the block calls `end_epoch`. A log file then gets few lines between the epochs.
        """
        outer = self._parts
        end = min(outer[-1].end, self._done + work * outer[-1].unit)
        self._parts = [*outer, Part(end, (end - self._done) / (units or 1), name, by_epochs=by_epochs)]
        try:
            yield
            self._move(end - self._done)
        finally:
            self._parts = outer

    def track(
        self,
        items: Iterable[Item],
        *,
        work: Callable[[Item], float] = lambda item: 1,
        name: Callable[[Item], str] = lambda item: "",
    ) -> Iterator[Item]:
        """Yield the items, each as a part that fills its share of the current part.

        Args:
            items: The items, which are all read before the first one is yielded.
            work: Size of an item, relative to the other items; also the number of units inside its part.
            name: Shown while the item is worked on.
        """
        items = list(items)
        sizes = [work(item) for item in items]
        with self.part(units=sum(sizes)):
            for item, size in zip(items, sizes, strict=True):
                with self.part(size, units=size, name=name(item)):
                    yield item

    def advance(self, units: float = 1.0) -> None:
        """Count units of the current part as done."""
        self._move(units * self._parts[-1].unit)

    def skip(self, units: float | None = None) -> None:
        """Count units that were done in an earlier session, by default the rest of the current part."""
        part = self._parts[-1]
        rest = part.end - self._done
        amount = rest if units is None else min(rest, units * part.unit)
        self._done += amount
        self._skipped += amount
        self._update()

    def show(self, name: str) -> None:
        """Change the name of the current part."""
        self._parts[-1].name = name
        self._update()

    def measure(self, **metrics: float) -> None:
        """Set metrics of the current part, which the next step shows."""
        self._parts[-1].metrics.update(metrics)

    def end_epoch(self) -> None:
        """Show the state at the end of an epoch."""

    def close(self, *, finished: bool = True) -> None:
        """Replace the display by one last line, which says whether the stage is done or was stopped."""
        if self._closed:
            return
        self._closed = True
        took = format_seconds(time.perf_counter() - self._start)
        if finished:
            said = f"done in {took}" + ("" if self.loss is None else f", loss {self.loss:#.3g}")
        else:
            said = f"stopped{f' at {100 * self._done:.0f} %' if self._done else ''} after {took}"
        self._end(f"{self.label}: {said}")

    def clear(self) -> None:
        """Remove the display from the terminal, until there is something new to show."""

    def _state(self, *more: str) -> str:
        """Return the names and metrics of the current parts, `more`, and the time left."""
        metrics = [f"{name} {value:#.3g}" for part in self._parts for name, value in part.metrics.items()]
        left = self.seconds_left
        remaining = f"{format_seconds(left)} left" if left is not None and self._done < 1 - ROUNDING else ""
        words = [*(part.name for part in self._parts), *metrics, *more, remaining]
        return ", ".join(word for word in words if word)

    def _move(self, amount: float) -> None:
        amount = max(0.0, min(amount, self._parts[-1].end - self._done))
        self._done += amount
        if self._first is None and amount > ROUNDING:
            self._first = time.perf_counter(), self._done - self._skipped
        self._update()

    def _update(self) -> None:
        """Show the state if it is due."""

    def _end(self, line: str) -> None:
        """Write the last line in place of the display."""


def format_seconds(seconds: float) -> str:
    """Return a duration in a suitable unit, for example "4.2 s", "41 s", "12 min" or "3.5 h"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
