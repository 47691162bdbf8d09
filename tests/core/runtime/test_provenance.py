"""The recorded provenance of a result."""

import json
import re
import subprocess

import torch

from core.runtime import provenance
from core.runtime.provenance import read_git_state, read_library_versions


def test_versions_are_those_that_run():
    assert (
        read_library_versions()["torch"] == torch.__version__.split("+")[0]
        or read_library_versions()["torch"] == torch.__version__
    )


def test_the_commit_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert read_git_state() == {}  # a downloaded archive has no git history

    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=tmp_path, check=True, capture_output=True
        )

    git("init")
    (tmp_path / "tracked").write_text("1")
    git("add", "tracked")
    git("commit", "--message", "one")
    clean = read_git_state()
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"]) and clean["dirty"] is False
    (tmp_path / "untracked").write_text("1")
    assert read_git_state()["dirty"] is False
    (tmp_path / "tracked").write_text("2")
    assert read_git_state() == {**clean, "dirty": True}


def test_it_is_plain_json_with_the_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/a/long/path/train_p_diff.py", "seed=0"])
    recorded = provenance.collect_provenance()
    assert recorded["command"] == ["train_p_diff.py", "seed=0"]
    assert json.loads(json.dumps(recorded)) == recorded
