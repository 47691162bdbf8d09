"""A comparison of two ways to do the same work: how much faster one is, and how much memory each takes."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Contest:
    """One case: our way and the reference way to do the same work, and facts such as whether the results agree.

    A cost is divided by the number of units (models, steps) that the call does, so the slow side may do fewer units.
    """

    stage: str
    case: str
    unit: str
    ours: Callable[[], Any]
    reference: Callable[[], Any]
    our_units: int = 1
    reference_units: int = 1
    facts: dict[str, Any] = field(default_factory=dict)  # entries of the JSON row, such as sizes


@dataclass(frozen=True)
class Cost:
    """The wall time of one call, and the memory that it added at its peak; None if the system cannot measure it."""

    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Measured:
    """The costs of all repetitions of both sides; entries with the same index in both lists form a pair."""

    contest: Contest
    ours: list[Cost]
    reference: list[Cost]

    def row(self) -> dict[str, Any]:
        """Return one row for JSON and for the table.

        Seconds are per unit. Each ratio is taken within one pair, so that a machine that slows down affects both sides.
        """
        ours = [cost.seconds / self.contest.our_units for cost in self.ours]
        reference = [cost.seconds / self.contest.reference_units for cost in self.reference]
        ratios = [slow / fast for slow, fast in zip(reference, ours, strict=True)]
        return {
            "stage": self.contest.stage,
            "case": self.contest.case,
            "unit": self.contest.unit,
            "ours_seconds": statistics.median(ours),
            "reference_seconds": statistics.median(reference),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "ours_peak_bytes": max(
                (cost.peak_bytes for cost in self.ours if cost.peak_bytes is not None), default=None
            ),
            "reference_peak_bytes": max(
                (cost.peak_bytes for cost in self.reference if cost.peak_bytes is not None), default=None
            ),
            **self.contest.facts,
        }


def measure(contest: Contest, repeats: int, device: torch.device) -> Measured:
    """Run both sides once as a warm-up, then measure them in turn on `device`: ours, reference, ours, reference."""
    measure_cost(contest.ours, device), measure_cost(contest.reference, device)
    pairs = [(measure_cost(contest.ours, device), measure_cost(contest.reference, device)) for _ in range(repeats)]
    return Measured(contest, [ours for ours, _ in pairs], [reference for _, reference in pairs])


def measure_cost(run: Callable[[], Any], device: torch.device) -> Cost:
    """Measure wall time and peak memory of one call, until `device` has finished its work."""
    before = reset_peak(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    seconds = time.perf_counter() - start
    return Cost(seconds, None if before is None else max(0, read_peak(device) - before))


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished all work that was started on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> int | None:
    """Reset the recorded peak of memory; return the bytes in use now, or None if the system cannot reset it.

    This is the memory of the GPU if `device` is a GPU, else the memory of this process.
    """
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # on Linux this resets VmHWM of the process
    except OSError:
        return None
    return read_process_memory("VmRSS")


def read_peak(device: torch.device) -> int:
    """Return the largest number of bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else read_process_memory("VmHWM")


def read_process_memory(entry: str) -> int:
    """Return VmRSS (memory in use) or VmHWM (its peak) of this process in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return 1024 * int(line.split()[1])
