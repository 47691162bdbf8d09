"""Run two ways of doing the same thing in turn, and say how much faster one is and what memory each takes."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Contest:
    """One case: what we do, what the reference procedure does, and whether the results agree.

    Both callables do the same amount of work after division by their own `units` (models, steps), so that the slow one
    may do less of it.
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
class Cost:
    """Wall time of one call, and the memory it took on top of what was there; None where the system does not tell."""

    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Measured:
    """Costs of the repetitions of both sides, pair by pair."""

    contest: Contest
    ours: list[Cost]
    reference: list[Cost]

    def row(self) -> dict[str, Any]:
        """Return what JSON can hold.

        Seconds are per unit; ratios are taken pair by pair, so that the machine's drift cancels.
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
    """Warm both up once, then run them in turn on `device`: ours, reference, ours, reference and so on."""
    cost_of(contest.ours, device), cost_of(contest.reference, device)
    pairs = [(cost_of(contest.ours, device), cost_of(contest.reference, device)) for _ in range(repeats)]
    return Measured(contest, [ours for ours, _ in pairs], [reference for _, reference in pairs])


def cost_of(run: Callable[[], Any], device: torch.device) -> Cost:
    """Measure wall time and peak memory of one call, with everything that `device` was given finished."""
    before = reset_peak(device)
    start = time.perf_counter()
    run()
    finish(device)
    seconds = time.perf_counter() - start
    return Cost(seconds, None if before is None else max(0, peak(device) - before))


def finish(device: torch.device) -> None:
    """Wait until `device` has done everything that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> int | None:
    """Forget earlier peaks; return the bytes in use now, None where the system cannot forget.

    The memory is that of the GPU if `device` is one, else that of the process, also on a machine that has a GPU.
    """
    if device.type == "cuda":
        finish(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of this process starts anew
    except OSError:
        return None
    return memory_of_process("VmRSS")


def peak(device: torch.device) -> int:
    """Return the most bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory_of_process("VmHWM")


def memory_of_process(entry: str) -> int:
    """Return VmRSS (memory now) or VmHWM (the most so far), in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return 1024 * int(line.split()[1])
