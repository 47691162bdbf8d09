"""A synthetic run and its report, drawn once for all tests that only read it."""

import functools
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.report import behavior_figures, gallery, weight_figures
from core.report.page import write_page
from tests.core.report.synthetic import write_run

DRAWN: dict[bytes, Any] = {}  # the name of a drawing function with its arguments: what it returned


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


def remember(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is called once in this process for the same arguments; an error is not remembered."""

    @functools.wraps(function)
    def remembered(*args: Any, **kwargs: Any) -> Any:
        key = pickle.dumps((function.__name__, args, kwargs))
        if key not in DRAWN:
            DRAWN[key] = function(*args, **kwargs)
        return DRAWN[key]

    return remembered


@pytest.fixture
def fast_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace saving figures, placing labels and t-SNE by fast fakes, for tests that do not look at figures.

    A figure is drawn once for the same data, because most of these tests change a single file of one run.
    """

    def save(drawn, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        files = {kind: folder / f"{name}.{kind}" for kind in ("png", "svg")}
        for path in files.values():
            path.write_bytes(b"<svg/>")
        return files

    monkeypatch.setattr(gallery, "save", save)
    monkeypatch.setattr(behavior_figures, "label_points", lambda *_: None)
    monkeypatch.setattr(weight_figures, "map_neighbors", lambda components_PC, seed: components_PC[:, :2])
    for module in (behavior_figures, weight_figures, gallery):
        for name in vars(module):
            if name.startswith("draw_") and name not in ("draw_all", "draw_matrix"):
                monkeypatch.setattr(module, name, remember(getattr(module, name)))
