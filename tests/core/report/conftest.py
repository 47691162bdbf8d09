"""A synthetic run and its report, drawn once for all tests that only read it."""

import shutil
from pathlib import Path

import pytest

from core.report import gallery
from core.report.page import write_page
from tests.core.report.synthetic import write_run


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run's folder with its report. Tests must not change it."""
    folder = write_run(tmp_path_factory.mktemp("reported") / "run")
    write_page(folder)
    return folder


@pytest.fixture
def run(reported: Path, tmp_path: Path) -> Path:
    """Return a copy of that run without its report, for tests that damage it."""
    return Path(shutil.copytree(reported, tmp_path / "run", ignore=shutil.ignore_patterns("report")))


@pytest.fixture
def fast_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace saving figures, placing labels and t-SNE by fast fakes, for tests that do not look at figures."""

    def save(drawn, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        files = {kind: folder / f"{name}.{kind}" for kind in ("png", "svg")}
        for path in files.values():
            path.write_bytes(b"<svg/>")
        return files

    monkeypatch.setattr(gallery, "save", save)
    monkeypatch.setattr(gallery.behavior_figures, "label_points", lambda *_: None)
    monkeypatch.setattr(gallery.weight_figures, "map_neighbors", lambda components_PC, seed: components_PC[:, :2])
