"""The order in which the test files run, and a disk that is not waited for."""

import os
from collections.abc import Iterator

import pytest

# The two slowest files start first. test_run.py also makes a run that other files reuse.
FIRST = ("test_run.py", "test_whole_networks.py")
SLOW = {"pipeline", "scripts"}  # these run whole commands
LONG = {"test_catalogue.py", "test_fit_generator.py", "test_page.py", "test_scorer.py", "test_train_networks.py"}


def pytest_collection_modifyitems(items):
    """Start with the slowest files, so that parallel workers finish at about the same time."""

    def rank(item):
        if item.path.name in FIRST and "pipeline" in item.path.parts:
            return FIRST.index(item.path.name)
        slow = not SLOW.isdisjoint(item.path.parts)
        return len(FIRST) + (0 if slow else 1 if item.path.name in LONG else 2)

    items.sort(key=rank)


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Write no file through to the disk, because no test cuts the power; test_artifacts.py checks the calls."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        yield
