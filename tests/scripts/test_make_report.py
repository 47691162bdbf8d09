"""The command line that rebuilds a report: a path on stdout, or one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.command_line.run_command import run_command
from scripts import make_report
from tests.core.report.synthetic import write_run

ROOT = Path(__file__).parents[2]


def call(monkeypatch, *words) -> int | str | None:
    """Exit status, or the sentence that stands for status 1."""
    monkeypatch.setattr(sys, "argv", ["make_report", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        run_command(make_report.main)
    return stopped.value.code


def test_the_documented_command_writes_the_report_from_saved_files_alone(tmp_path):
    folder = write_run(tmp_path / "run", latent=None)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.make_report", folder], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.strip() == str(folder / "report" / "index.html")
    assert {path.name for path in (folder / "report").iterdir()} == {"index.html", "table.md", "scores.csv", "figures"}
    assert "Traceback" not in done.stderr


def test_a_wrong_folder_is_one_sentence(monkeypatch, tmp_path):
    assert "there is no folder" in call(monkeypatch, tmp_path / "nothing")
    sentence = call(monkeypatch, tmp_path)
    assert sentence.startswith("error: there is no metrics.json") and "\n" not in sentence


def test_a_bug_of_ours_keeps_its_traceback():
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
