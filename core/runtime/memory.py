"""How much memory is free, on a GPU and beside it."""

import os
from pathlib import Path

import torch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Return how many bytes can still be allocated on a device; for the CPU, in main memory without swapping."""
    if device.type == "cuda":
        held_by_torch = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held_by_torch
    return min(_free_in_machine(), _free_in_container())


def _free_in_machine() -> int:
    """Return the bytes that the machine can give; half of its memory where the system does not tell."""
    if MEMINFO.is_file():
        entries = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        return 1024 * int(entries["MemAvailable"].split()[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_in_container() -> float:
    """Return the bytes below the limit of this process's control group (version 2); infinite where there is none."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return float("inf")
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(stat["inactive_file"]))  # the page cache gives way
    except (OSError, ValueError, KeyError):
        return float("inf")
