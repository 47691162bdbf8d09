"""Memory and cores that are free: on a GPU, in the machine, and within the limits of a container or a job."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

MEMINFO, CGROUPS, OWN_CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_bytes(device: torch.device) -> int:
    """Return how many bytes can still be allocated on a device; for the CPU, in main memory without swapping."""
    if device.type == "cuda":
        held_by_torch = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held_by_torch
    return int(min([_free_in_machine(), *map(_free_in_group, _control_groups("memory"))]))


def available_cores() -> int:
    """Return how many cores this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([cores, *map(_cores_of_group, _control_groups("cpu"))])))


def _free_in_machine() -> int:
    """Return the bytes that the machine can give; half of its memory where the system does not tell."""
    if MEMINFO.is_file():
        entries = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        return 1024 * int(entries["MemAvailable"].split()[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _control_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that limit this process, of version 1 or 2, from its own up to the root.

    Inside a container the path of its own group may not exist, and the root shows the container's limits.
    """
    if not OWN_CGROUP.is_file():
        return
    for line in OWN_CGROUP.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = CGROUPS / controllers if controllers else CGROUPS
        if not controllers or controller in controllers.split(","):
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_dir() and folder.is_relative_to(root))


def _free_in_group(group: Path) -> float:
    """Return the bytes below the limit of one control group; infinite where it has none."""
    for limit_name, used_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, used = int((group / limit_name).read_text()), int((group / used_name).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return max(0, limit - used + int(stat[cache_name]))  # the page cache gives way
        except (OSError, ValueError, KeyError):  # another version, or "max"
            continue
    return float("inf")


def _cores_of_group(group: Path) -> float:
    """Return the cores that the CPU quota of one control group amounts to; infinite where it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = (int(word) for name in names for word in (group / name).read_text().split())
        except (OSError, ValueError):
            continue
        if quota > 0:
            return max(1, quota // period)
    return float("inf")
