"""A made-up run and its report, drawn once for all tests that only look."""

import shutil
from pathlib import Path

import pytest

from core.report import gallery
from core.report.page import write_page
from tests.core.report.synthetic import write_run


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its report. Nothing may be changed in it."""
    folder = write_run(tmp_path_factory.mktemp("reported") / "run")
    write_page(folder)
    return folder


@pytest.fixture
def run(reported: Path, tmp_path: Path) -> Path:
    """A copy of that run without a report, to be damaged."""
    return Path(shutil.copytree(reported, tmp_path / "run", ignore=shutil.ignore_patterns("report")))


@pytest.fixture
def fast_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes the time where the test is about something else: saving, and t-SNE."""

    def save(drawn, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        files = {kind: folder / f"{name}.{kind}" for kind in ("png", "svg")}
        for path in files.values():
            path.write_bytes(b"<svg/>")
        return files

    monkeypatch.setattr(gallery, "save", save)
    monkeypatch.setattr(gallery.weight_figures, "neighbor_map", lambda components_PC, seed: components_PC[:, :2])
