"""Every source is scored once, stored, and reused only with the same settings."""

import logging

import numpy as np
import pytest
import torch

from core.evaluation.evaluate import evaluate, score_source
from core.evaluation.kinds import Kind, infer_kind
from core.evaluation.scores import Scores, ScoreTable
from core.evaluation.sources import EVERY_SPLIT, Source
from core.evaluation.store import Identity, ScoreStore
from core.runtime.run_directory import RunDirectory
from tests.core.tiny import change_array, damaged_copies

MADE = {
    "original": torch.full((4, 2), 0.25),
    "ensemble": torch.full((1, 2), 0.5),
    "p_diff": torch.full((3, 2), 0.75),
    "gaussian": torch.zeros(2, 2),
}
SPLITS = EVERY_SPLIT
GIVEN = [
    Source(
        name,
        infer_kind(name),
        vectors_MD.clone,
        ("test",) if name == "gaussian" else EVERY_SPLIT,
        needs_generator=name == "p_diff",
    )
    for name, vectors_MD in MADE.items()
]
ALL = [
    *[(source, split) for source in ("original", "ensemble", "p_diff") for split in SPLITS],
    ("gaussian", "test"),
    *[(source, split) for source in ("soup_original", "soup_p_diff") for split in ("val", "test")],
]


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def score(run, tmp_path):
    """Return a function that evaluates all sources and returns tables and the newly scored (source, split) pairs."""

    def session(identity="id", reuse=True, shared_identity="shared", run=run):
        current, scored = [], []

        def watched(sources):
            for source in sources:
                current.append(source.name)
                yield source

        def score_on(split):
            def score_fn(vectors_MD):
                scored.append((current[-1], split))
                accuracy_M = vectors_MD[:, 0].double().numpy() + SPLITS.index(split)
                return Scores(accuracy_M, 1 - accuracy_M, np.zeros((len(vectors_MD), 5), dtype=bool))

            return score_fn

        store = ScoreStore(
            run,
            Identity(identity, shared_identity),
            encode=lambda vectors_MD: vectors_MD[:, :1] + 10,
            checkpoints=tmp_path / "checkpoints.safetensors",
            reuse=reuse,
        )
        score_fns = {split: score_on(split) for split in SPLITS}
        tables = evaluate(GIVEN, score_fns, store, soup_candidates=1, progress=watched)
        return tables, scored

    return session


def test_every_source_is_scored_on_its_splits_in_order(score):
    tables, scored = score()
    assert scored == ALL and list(tables) == [*MADE, "soup_original", "soup_p_diff"]
    for source, table in tables.items():
        expected = MADE[source.removeprefix("soup_")][: 1 if "soup" in source else None]
        assert table.source == source
        np.testing.assert_array_equal(table.vectors_MD, expected.numpy())
        np.testing.assert_array_equal(table.latents_ML, expected[:, :1].numpy() + 10)
        for split, split_scores in table.scores.items():
            np.testing.assert_allclose(split_scores.accuracy_M, expected[:, 0].numpy() + SPLITS.index(split))


def test_tables_of_the_same_settings_are_reused(score):
    first, _ = score()
    again, scored = score()
    assert scored == []
    for source, table in again.items():
        assert table.seconds == first[source].seconds
        np.testing.assert_array_equal(table.scores["test"].accuracy_M, first[source].scores["test"].accuracy_M)


OF_P_DIFF = [pair for pair in ALL if "p_diff" in pair[0]]


@pytest.mark.parametrize("changes", [{"identity": "other", "shared_identity": "another"}, {"reuse": False}])
def test_tables_of_other_settings_are_scored_again_and_stored(score, changes):
    score()
    assert score(**changes)[1] == ALL
    assert score(**changes | {"reuse": True})[1] == []


def test_another_generator_reuses_sources_that_need_no_generator(score, tmp_path):
    first, _ = score()
    second, scored = score(identity="other", run=RunDirectory(tmp_path / "second"))
    assert scored == OF_P_DIFF
    for source, table in second.items():
        assert table.identity == "other"
        np.testing.assert_array_equal(table.scores["test"].accuracy_M, first[source].scores["test"].accuracy_M)
        np.testing.assert_array_equal(table.latents_ML, first[source].latents_ML)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(dict(damaged_copies(path))["half"]),
        lambda path: change_array(path, "test/accuracy"),
    ],
    ids=["cut", "changed"],
)
def test_a_damaged_table_is_scored_again_and_named_in_the_log(score, run, caplog, damage):
    score()
    damage(run.scores("gaussian"))
    with caplog.at_level(logging.WARNING):
        assert score(shared_identity="another")[1] == [("gaussian", "test")]
    assert "gaussian.npz" in caplog.text
    assert score()[1] == []


def test_interrupted_scoring_resumes_with_the_next_source(score, run):
    score()
    run.scores("p_diff").unlink()
    assert score()[1] == [("p_diff", split) for split in SPLITS]


def test_each_table_stores_the_kind_of_its_source(score, run):
    tables, _ = score()
    assert [table.stored_kind for table in tables.values()] == [
        Kind.ORIGINAL, Kind.FREE, Kind.GENERATED, Kind.FREE, Kind.SOUP, Kind.SOUP,
    ]  # fmt: skip
    assert ScoreTable.load(run.scores("soup_p_diff")).stored_kind is Kind.SOUP


def test_only_sources_that_need_no_generator_are_shared_and_without_latents(score, run, tmp_path):
    score()
    names = {path.stem for path in (tmp_path / "scores" / "shared").iterdir()}
    assert names == {"original", "ensemble", "gaussian", "soup_original"}
    shared = ScoreTable.load(run.shared_scores(tmp_path / "checkpoints.safetensors", "shared", "original"))
    assert shared.identity == "shared" and shared.latents_ML is None


def test_without_a_checkpoints_file_nothing_is_shared(run, tmp_path):
    store = ScoreStore(run, Identity("id", "shared"), encode=lambda vectors_MD: vectors_MD)
    scored = Scores(np.zeros(4), np.zeros(4), None)
    store.put(GIVEN[0], ScoreTable("original", MADE["original"].numpy(), {"test": scored}, "", 1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert store.get(GIVEN[0]) is not None and store.get(GIVEN[1]) is None


def test_an_identity_follows_from_its_settings_and_the_shared_one_ignores_the_generator():
    one, other = (Identity.from_settings({"seed": 0, "precision": "fp32"}, {"generator": name}) for name in "ab")
    assert one.shared == other.shared and len({one.run, other.run, one.shared}) == 3
    assert Identity.from_settings({"precision": "fp32", "seed": 0}, {"generator": "a"}) == one
    assert Identity.from_settings({"precision": "fp32", "seed": 1}, {"generator": "a"}).shared != one.shared


def test_models_that_give_nan_are_named_with_their_source_and_split(caplog):
    def score_fn(vectors_MD):
        accuracy_M = np.zeros(len(vectors_MD))
        return Scores(accuracy_M, vectors_MD[:, 0].double().numpy(), None)

    vectors_MD = torch.ones(9, 2)
    vectors_MD[1:8, 0] = torch.nan
    with caplog.at_level(logging.WARNING):
        score_source(Source("p_diff", Kind.GENERATED, lambda: vectors_MD, ("test",)), {"test": score_fn})
    assert "p_diff: 7 of 9" in caplog.text and "test" in caplog.text and "1, 2, 3, 4, 5 and 2 more" in caplog.text
