"""The part that profiles each hot loop: its most expensive kernels, how busy the GPU is, and how often it waits."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from scripts.benchmark.contest import read_peak, reset_peak, synchronize
from scripts.gpu_check.findings import NEEDS_GPU, Findings
from scripts.gpu_check.hot_loops import MAKERS, Loop
from scripts.gpu_check.timing import Clock

MOST_EXPENSIVE = 10
NAME_LENGTH = 80  # names of kernels can be very long
GOAL = 0.8  # the share of time in which the GPU is busy
COUNTED = {  # column: prefixes of the CUDA runtime and driver calls that it counts
    "copies": ("cudaMemcpy", "cuMemcpy"),
    "cudaStreamSynchronize": ("cudaStreamSynchronize",),
    "launches": ("cudaLaunch", "cuLaunch", "cudaGraphLaunch"),
}


class Recording:
    """A meter that records with the profiler of torch."""

    def __init__(self, device: torch.device):
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        self.device, self.profiler = device, torch.profiler.profile(activities=activities)

    def begin(self) -> None:
        """Wait until the device is idle, then start recording."""
        synchronize(self.device)
        self.profiler.start()

    def end(self) -> None:
        """Wait until the device is idle, then stop recording."""
        synchronize(self.device)
        self.profiler.stop()


def run(findings: Findings, device: torch.device, rehearse: bool) -> None:
    """Profile every loop; add one table of all loops, and a table of kernels per loop."""
    rows: list[dict[str, Any]] = []
    made = (findings.attempt(make.__name__, make, device, rehearse) or () for make in MAKERS)
    for loop in chain.from_iterable(made):
        found = findings.attempt(loop.name, profile_loop, loop, device)
        if found:
            row, expensive = found
            rows.append(row)
            findings.add_table("hot loops", rows)
            kind = "kernels" if device.type == "cuda" else "operations"
            findings.add_table(f"{loop.name}: the {MOST_EXPENSIVE} most expensive {kind}", expensive)


def profile_loop(loop: Loop, device: torch.device) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a loop twice, since the profiler slows it down: once for time and memory, once under the profiler."""
    clock, recording = Clock(device), Recording(device)
    before = reset_peak(device)
    loop.run(clock)
    bytes_taken = None if before is None else max(0, read_peak(device) - before)
    loop.run(recording)
    events = [event for event in recording.profiler.events() if not getattr(event, "is_user_annotation", False)]
    row = {"loop": loop.name, "unit": loop.unit, "ms per unit": 1000 * clock.seconds / loop.units}
    if device.type == "cuda":
        kernels = [event for event in events if event.device_type == DeviceType.CUDA]
        busy = sum_busy_seconds((event.time_range.start, event.time_range.end) for event in kernels)
        row |= {
            "GPU busy, %": 100 * busy / clock.seconds,
            "goal, %": 100 * GOAL,
            **count_calls_per_unit(events, loop.units),
        }
        expensive = rank_by_time(((event.name, event.time_range.elapsed_us()) for event in kernels), loop.units)
    else:
        row |= {"GPU busy, %": NEEDS_GPU, "goal, %": 100 * GOAL}
        expensive = rank_by_time(((event.name, event.self_cpu_time_total) for event in events), loop.units)
    return {**row, "peak, MB": None if bytes_taken is None else bytes_taken / 1e6}, expensive


def sum_busy_seconds(ranges: Iterable[tuple[float, float]]) -> float:
    """Return the seconds in which at least one (start, end) range in microseconds is active, as kernels may overlap."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(ranges):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total / 1e6


def count_calls_per_unit(events: Iterable[Any], units: int) -> dict[str, float]:
    """Count the host's calls that copy, wait or launch, per unit of work."""
    names = [event.name for event in events if event.device_type == DeviceType.CPU]
    return {
        f"{column} per unit": sum(name.startswith(beginnings) for name in names) / units
        for column, beginnings in COUNTED.items()
    }


def rank_by_time(events: Iterable[tuple[str, float]], units: int) -> list[dict[str, Any]]:
    """Sum (name, microseconds) by name; return one row for each of the names that take longest."""
    microseconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for name, elapsed in events:
        microseconds[name] += elapsed
        calls[name] += 1
    total = sum(microseconds.values()) or 1.0
    names = sorted(microseconds, key=microseconds.__getitem__, reverse=True)[:MOST_EXPENSIVE]
    return [
        {
            "name": (name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…").replace("|", "¦"),
            "ms per unit": microseconds[name] / 1000 / units,
            "share, %": 100 * microseconds[name] / total,
            "calls per unit": calls[name] / units,
        }
        for name in names
    ]
