"""Stages are numbered and timed in the order of the command."""

import pytest

from core.runtime.progress import Stages


def test_stages_are_numbered_named_and_timed():
    stages = Stages(["train_task", "collect"])
    with stages.stage("train_task"):
        assert stages.label == "[1/2] train task"
    with stages.stage("collect"):
        assert stages.label == "[2/2] collect"
        assert list(stages.seconds) == ["train_task"]
    assert list(stages.seconds) == ["train_task", "collect"] and min(stages.seconds.values()) >= 0


def test_a_stage_that_failed_has_no_time():
    stages = Stages(["score"])
    with pytest.raises(RuntimeError), stages.stage("score"):
        raise RuntimeError
    assert stages.seconds == {}


def test_a_progress_bar_gives_every_item_and_carries_the_label(capsys):
    stages = Stages(["score", "report"])
    with stages.stage("score"):
        assert list(stages.progress("abc", "images")) == ["a", "b", "c"]
    assert "[1/2] score images" in capsys.readouterr().err
