"""The progress of a scored run counts every image that a model sees, and only what this session has to score."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.evaluation.evaluate import Scoring, count_images, list_costs, score_run
from core.evaluation.kinds import Kind
from core.evaluation.scores import Scores
from core.evaluation.soup import list_soups
from core.evaluation.sources import Material, Source, SourceOptions, list_sources
from core.runtime import source_code
from core.runtime.provenance import ROOT
from core.runtime.run_directory import RunDirectory
from core.runtime.stage_progress import StageProgress
from tests.core.evaluation.tables import votes

NUM_IMAGES = {"train": 3, "val": 5, "test": 7, "splices": 11}
SPLITS = ("train", "val", "test")
OPTIONS = SourceOptions(num_baselines=4, noise=(0.1,), soup_candidates=6, num_trajectories=2)


class Recorder(StageProgress):
    """A progress that records the images that each source counts, and the share at its start."""

    def __init__(self):
        super().__init__()
        self.counted, self.shares = Counter(), {}

    @property
    def source(self):
        return next(part.name for part in self._parts if part.name)

    def count(self, images):
        self.shares.setdefault(self.source, self.share)
        self.counted[self.source] += images
        self.advance(images)


@pytest.fixture
def material(tiny_checkpoints, tiny_generator):
    generated_MD = tiny_generator.sample(0, range(3))
    return Material(
        checkpoints=tiny_checkpoints, generator=tiny_generator, generated_MD=generated_MD, options=OPTIONS, seed=0
    )


def make_scoring(progress):
    def score_on(split):
        def score_fn(vectors_MD, temperature_P=None):
            progress.count(len(vectors_MD) * NUM_IMAGES[split])
            accuracy_M = 0.5 + 0.01 * np.tanh(vectors_MD[:, 0].double().numpy())
            voted = votes(0.9, fitted_P=np.ones(3))
            wrong_MN = np.zeros((len(vectors_MD), NUM_IMAGES[split]), dtype=bool)
            return Scores(accuracy_M, 1 - accuracy_M, wrong_MN, votes=voted)

        return score_fn

    return Scoring(
        score_fns={split: score_on(split) for split in SPLITS},
        ood_fns={"splices": score_on("splices")},
        num_images=NUM_IMAGES,
        further=[Source("finetuned_5", Kind.TRAINED, lambda: torch.ones(2, 60), num_models=2)],
        settings={"precision": "fp32"},
        code={},
        reuse=True,
    )


def test_each_source_counts_the_images_that_its_models_see(material, tmp_path):
    progress = Recorder()
    scoring = make_scoring(progress)
    score_run(material, scoring, RunDirectory(tmp_path / "run"), progress=progress)
    every = [
        *list_sources(material),
        *scoring.further,
        *list_soups({}, scoring.score_fns["val"], OPTIONS.soup_candidates),
    ]
    expected = {source.name: count_images(material, scoring, source) for source in every}
    trajectories = progress.counted.pop("trajectories")
    assert progress.counted == expected and trajectories % (2 * NUM_IMAGES["val"]) == 0
    assert list(progress.shares.values()) == sorted(progress.shares.values())
    assert progress.shares["original"] == 0 and progress.shares["trajectories"] == pytest.approx(0.9)
    assert progress.share == pytest.approx(1)


def test_sources_of_an_earlier_session_are_no_work(material, tmp_path):
    for lost in ([], ["p_diff", "gaussian"]):
        run = RunDirectory(tmp_path / "run")
        for name in lost:
            run.scores(name).unlink()
        progress = Recorder()
        score_run(material, make_scoring(progress), run, progress=progress)
    assert set(progress.counted) == {"p_diff", "gaussian", "trajectories"}
    assert progress.shares["p_diff"] == 0 and progress.share == pytest.approx(1)
    per_model = {
        "p_diff": 3 * sum(NUM_IMAGES.values()),
        "gaussian": 4 * sum(NUM_IMAGES[name] for name in ("val", "test", "splices")),
    }
    assert progress.shares["gaussian"] == pytest.approx(0.9 * per_model["p_diff"] / sum(per_model.values()))


@pytest.mark.parametrize("file, old, new, scored", [
    (None, "", "", set()),
    ("core/generation/baselines.py", "sigma * torch.cat", "2 * sigma * torch.cat", {"noised_0.1"}),
    ("core/generation/baselines.py", "Return random checkpoints plus", "Draw", set()),
    ("core/evaluation/soup.py", "quality >= best", "quality > best", {"soup_original", "soup_p_diff"}),
    ("core/networks/denoiser.py", "import", "import math\nimport", {"p_diff", "reconstructed", "soup_p_diff"}),
])  # fmt: skip
def test_only_sources_whose_own_code_was_edited_are_scored_again(
    material, tmp_path, monkeypatch, file, old, new, scored
):
    root = tmp_path / "code"
    shutil.copytree(ROOT / "core", root / "core", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_code, "ROOT", root)
    for attempt in range(2):
        progress = Recorder()
        if attempt and file:
            text = (root / file).read_text()
            assert old in text
            (root / file).write_text(text.replace(old, new, 1))
        score_run(material, make_scoring(progress), RunDirectory(tmp_path / "run"), progress=progress)
    assert set(progress.counted) - {"trajectories"} == scored


def test_the_training_of_a_source_counts_in_forward_and_backward_passes(material):
    scoring = make_scoring(Recorder())
    [plain] = scoring.further
    trained = replace(plain, training_images=10)
    counted = [count_images(material, scoring, source) for source in (plain, trained)]
    assert counted == [2 * (5 + 7 + 11), 2 * (5 + 7 + 11) + 2 * 3 * 10]


def test_the_costs_of_a_model_are_listed_where_they_are_known(material):
    scoring = make_scoring(Recorder())
    scoring = replace(scoring, further=[replace(scoring.further[0], gradient_evaluations=5.0)])
    costs = list_costs(replace(material, training_steps=60), scoring)
    assert costs["p_diff"] == 20 and costs["finetuned_5"] == 5 and costs["soup_original"] == costs["gaussian"] == 0
    assert not {"original", "reconstructed", "soup_p_diff"} & costs.keys()


def test_another_optimizer_concerns_fine_tuning_alone(material, tmp_path):
    for lr in (0.1, 0.2):
        progress = Recorder()
        scoring = make_scoring(progress)
        tuned = replace(scoring.further[0], settings={"optimizer": {"lr": lr}})
        scoring = replace(scoring, further=[tuned])
        score_run(material, scoring, RunDirectory(tmp_path / "run"), progress=progress)
    assert set(progress.counted) == {"finetuned_5", "trajectories"}
