"""Free memory and cores of the machine, and the limits of containers and cluster jobs."""

import pytest
import torch

from core.runtime import memory
from core.runtime.memory import count_available_cores, count_free_bytes

CPU = torch.device("cpu")
MACHINE = 8_000_000 * 1024


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Imitate a machine with 8 GB of available memory and 16 cores; its control groups are in a temporary folder."""
    (tmp_path / "meminfo").write_text("MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n")
    for name, place in {"MEMINFO": "meminfo", "CGROUPS": "groups", "OWN_CGROUP": "own"}.items():
        monkeypatch.setattr(memory, name, tmp_path / place)
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda _: range(16), raising=False)
    return tmp_path


def limit(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_a_control_group_the_machine_decides(machine):
    assert count_free_bytes(CPU) == MACHINE and count_available_cores() == 16


@pytest.mark.parametrize(
    "most, free", [("max", MACHINE), ("3000000", 3_000_000 - 2_500_000 + 400_000), ("2000000", 0), ("9" * 15, MACHINE)]
)
@pytest.mark.parametrize("group", ["job", "."])  # a parent group and the root, both above the group of the process
def test_every_group_up_to_the_root_limits_memory(machine, most, free, group):
    (machine / "own").write_text("0::/job/step\n")
    (machine / "groups/job/step").mkdir(parents=True)
    limit(
        machine / "groups" / group,
        memory__max=most,
        memory__current=2500000,
        memory__stat="anon 1\ninactive_file 400000",
    )
    assert count_free_bytes(CPU) == free


def test_the_first_version_of_control_groups_limits_too(machine):
    (machine / "own").write_text("4:memory:/job\n3:cpu,cpuacct:/job\n")
    usage = {"memory__usage_in_bytes": 1000, "memory__stat": "total_inactive_file 5"}
    limit(machine / "groups/memory/job", memory__limit_in_bytes=5000, **usage)
    limit(machine / "groups/cpu,cpuacct/job", cpu__cfs_quota_us=400000, cpu__cfs_period_us=100000)
    assert count_free_bytes(CPU) == 4005 and count_available_cores() == 4


@pytest.mark.parametrize(
    "quota, cores", [("max 100000", 16), ("400000 100000", 4), ("50000 100000", 1), ("6400000 100000", 16)]
)
def test_a_cpu_quota_counts_as_cores(machine, quota, cores):
    (machine / "own").write_text("0::/\n")
    limit(machine / "groups", cpu__max=quota)
    assert count_available_cores() == cores


def test_this_machine_has_some_free_memory_and_a_core():
    assert 1e6 < count_free_bytes(CPU) < 1e15 and count_available_cores() >= 1
