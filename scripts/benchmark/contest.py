"""Run two ways of doing the same thing in turn, and say how much faster one is."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Contest:
    """One case: what we do, what the reference procedure does, and whether the results agree.

    Both callables do the same amount of work after division by their own `units` (models, steps), so that the slow one may
    do less of it.
    """

    stage: str
    case: str
    unit: str
    ours: Callable[[], Any]
    reference: Callable[[], Any]
    our_units: int = 1
    reference_units: int = 1
    facts: dict[str, Any] = field(default_factory=dict)  # of the agreement, of sizes


@dataclass(frozen=True)
class Measured:
    """Seconds per unit, over the repetitions."""

    contest: Contest
    ours: list[float]
    reference: list[float]

    @property
    def ratios(self) -> list[float]:
        """Reference over ours, pair by pair: the machine's drift cancels."""
        return [reference / ours for reference, ours in zip(self.reference, self.ours)]

    def row(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "stage": self.contest.stage,
            "case": self.contest.case,
            "unit": self.contest.unit,
            "ours_seconds": statistics.median(self.ours),
            "reference_seconds": statistics.median(self.reference),
            "ratio": statistics.median(self.ratios),
            "ratio_min": min(self.ratios),
            "ratio_max": max(self.ratios),
            **self.contest.facts,
        }


def measure(contest: Contest, repeats: int) -> Measured:
    """Warm both up once, then run them in turn: ours, reference, ours, reference, …"""
    seconds(contest.ours), seconds(contest.reference)
    pairs = [(seconds(contest.ours) / contest.our_units, seconds(contest.reference) / contest.reference_units) for _ in range(repeats)]
    return Measured(contest, [ours for ours, _ in pairs], [reference for _, reference in pairs])


def seconds(run: Callable[[], Any]) -> float:
    """Wall time, with everything that the device was given finished."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
