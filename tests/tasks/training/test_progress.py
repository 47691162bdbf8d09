"""Tests that training and collecting fill the stages of task_training.py."""

import io
import re

import pytest
import torch
from hydra.utils import instantiate

from core.checkpoints.subset import resolve_subset
from core.runtime import progress as console
from core.runtime.progress import Stages
from core.runtime.stage_progress import StageProgress
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.training.collect_checkpoints import collect_checkpoints
from tests.core.runtime.terminal import Terminal, stderr_as
from tests.tasks.tiny import independent_config, steps_config, task_spec


def collect(cfg, data, folder):
    collect_checkpoints(
        task_spec(cfg),
        data,
        settings={},
        state_dir=folder / "state",
        make_trainer=instantiate(cfg.trainer),
        loggers=(),
        stages=Stages(["train_task", "collect"]),
        scoring=ScoringSpec(),
    )


def test_networks_from_different_seeds_write_a_line_for_each_epoch(data, tmp_path):
    with stderr_as(io.StringIO()) as log_file:
        collect(independent_config("task.param.k=3"), data, tmp_path)
    lines = log_file.getvalue().splitlines()
    epochs = [found[0] for line in lines if (found := re.search(r"network \d/3, epoch \d/2", line))]
    assert epochs == [f"network {network}/3, epoch {epoch}/2" for network in (1, 2, 3) for epoch in (1, 2)]
    assert [line.partition(":")[0] for line in lines if "done in" in line] == ["[1/2] train task", "[2/2] collect"]
    assert "\r" not in log_file.getvalue()


def test_collecting_by_steps_leaves_one_line_for_each_stage_in_a_terminal(data, tmp_path, monkeypatch):
    monkeypatch.setattr(console, "DRAW_SECONDS", 0.0)
    cfg = steps_config("task.model.name=test_resnet", "task.epochs=1")
    with stderr_as(Terminal()) as terminal:
        collect(cfg, data, tmp_path)
    shares = [int(found[1]) for state in terminal.states if (found := re.search(r"collect +(\d+) %\|", state))]
    assert shares == sorted(shares) and len(set(shares)) >= 7
    stages = [line for line in terminal.screen if line.startswith("[")]
    assert [line.partition(":")[0] for line in stages] == ["[1/2] train task", "[2/2] collect"]
    assert all("done in" in line for line in stages)


@pytest.mark.parametrize("batch_size", [40, 16])
def test_a_scorer_counts_each_image_for_each_model(model, data, batch_size):
    subset, progress = resolve_subset(model, "last_norms", count=1), StageProgress()
    scorer = Scorer(
        model, subset, data.val, objective=data.objective, options=ScoringSpec(batch_size=batch_size), progress=progress
    )
    with progress.part(units=8 * len(data.val)):
        for num_models in (3, 1):
            scorer(torch.zeros(num_models, subset.num_params))
        assert progress.share == pytest.approx(0.5)
