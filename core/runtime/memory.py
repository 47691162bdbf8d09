"""Free memory and available CPU cores, within the limits of containers and cluster jobs."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

MEMINFO, CGROUPS, OWN_CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def count_free_bytes(device: torch.device) -> int:
    """Return the number of bytes that can still be allocated on a device; on the CPU, without swapping."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    return int(min([_read_machine_memory(), *map(_read_group_memory, _find_control_groups("memory"))]))


def count_available_cores() -> int:
    """Return the number of CPU cores that this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([cores, *map(_read_group_cores, _find_control_groups("cpu"))])))


def _read_machine_memory() -> int:
    """Return the available bytes of main memory; half of all memory on systems without /proc/meminfo."""
    if MEMINFO.is_file():
        entries = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        return 1024 * int(entries["MemAvailable"].split()[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _find_control_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups (version 1 or 2) that limit this process, from its own up to the root.

    Inside a container the folder of its own group may be missing; the root then shows the container's limits.
    """
    if not OWN_CGROUP.is_file():
        return
    for line in OWN_CGROUP.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = CGROUPS / controllers if controllers else CGROUPS
        if not controllers or controller in controllers.split(","):
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_dir() and folder.is_relative_to(root))


def _read_group_memory(group: Path) -> float:
    """Return the free bytes of one control group; infinity if it has no limit."""
    for limit_name, used_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, used = int((group / limit_name).read_text()), int((group / used_name).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return max(0, limit - used + int(stat[cache_name]))  # the kernel frees page cache on demand
        except (OSError, ValueError, KeyError):
            # The files of control-group version 1 are absent under version 2 and vice versa, and "max" means no limit.
            continue
    return float("inf")


def _read_group_cores(group: Path) -> float:
    """Return the whole cores in the CPU quota of one control group; infinity if it has no quota."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = (int(word) for name in names for word in (group / name).read_text().split())
        except (OSError, ValueError):
            continue
        if quota > 0:
            return max(1, quota // period)
    return float("inf")
