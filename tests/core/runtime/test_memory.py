"""Free memory: what the machine has, and what a container leaves of it."""

import pytest
import torch

from core.runtime import memory
from core.runtime.memory import free_bytes

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of which 8 GB are available, and its control group."""
    (tmp_path / "meminfo").write_text("MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def test_without_a_container_the_machine_decides(machine):
    assert free_bytes(CPU) == 8_000_000 * 1024


@pytest.mark.parametrize("limit, expected", [("max", 8_000_000 * 1024), ("3000000", 3_000_000 - 2_500_000 + 400_000), ("2000000", 0)])
def test_a_container_leaves_what_is_below_its_limit(machine, limit, expected):
    (machine / "memory.max").write_text(f"{limit}\n")
    (machine / "memory.current").write_text("2500000\n")
    (machine / "memory.stat").write_text("anon 1\ninactive_file 400000\n")
    assert free_bytes(CPU) == expected


def test_this_machine_has_some_free_memory():
    assert 1e6 < free_bytes(CPU) < 1e15
