"""Tests of the command line that rebuilds a report: it prints the path of the page, or an error of one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.command_line.run_command import run_command
from scripts import make_report
from tests.core.report.synthetic import write_run

ROOT = Path(__file__).parents[2]


def call(monkeypatch, *words) -> int | str | None:
    """Return the exit status, or the error for status 1."""
    monkeypatch.setattr(sys, "argv", ["make_report", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        run_command(make_report.main)
    return stopped.value.code


def test_the_documented_command_writes_the_report_from_saved_files_alone(tmp_path):
    folder = write_run(tmp_path / "run", k=8, m=4, latent=None)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.make_report", folder], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.strip() == str(folder / "report" / "index.html")
    assert {path.name for path in (folder / "report").iterdir()} == {"index.html", "table.md", "scores.csv", "figures"}
    assert "Traceback" not in done.stderr


def test_a_wrong_folder_is_an_error_of_one_line(monkeypatch, tmp_path):
    for folder, named in ((tmp_path / "nothing", "nothing"), (tmp_path, "metrics.json")):
        error = call(monkeypatch, folder)
        assert error.startswith("error: ") and "\n" not in error
        assert named in error and str(tmp_path) in error and "output_dir" in error


def test_an_unexpected_error_keeps_its_traceback():
    def broken() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run_command(broken)


def test_ctrl_c_is_status_130():
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run_command(interrupted)
    assert stopped.value.code == 130
