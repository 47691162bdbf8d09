"""Every source is scored once, stored, and reused only with the same settings."""

import json
import logging
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.evaluation.evaluate import check_for_nan, evaluate, score_source
from core.evaluation.kinds import Kind, infer_kind
from core.evaluation.scores import Metric, Scores, ScoreTable
from core.evaluation.sources import EVERY_SPLIT, Source, UnavailableSource
from core.evaluation.store import Identity, ScoreStore, explain
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from tests.core.evaluation.tables import votes
from tests.core.tiny import change_array, damaged_copies

MADE = {
    "original": torch.full((4, 2), 0.25),
    "ensemble": torch.full((1, 2), 0.5),
    "p_diff": torch.full((3, 2), 0.75),
    "gaussian": torch.zeros(2, 2),
}
SPLITS = EVERY_SPLIT
IN_ORDER = ("val", "train", "test")  # validation gives the temperatures of the votes
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
    *[(source, split) for source in ("original", "ensemble", "p_diff") for split in IN_ORDER],
    ("gaussian", "test"),
    *[(source, split) for source in ("soup_original", "soup_p_diff") for split in ("val", "test")],
]


def make_identity(checkpoints="these", generator="id", code="scorer-1"):
    return Identity(
        common={"checkpoints": checkpoints, "evaluation": {"noise": (0.05,)}},
        generator={"fingerprint": generator},
        code={"scorer.py": code},
    )


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def score(run, tmp_path):
    """Return a function that evaluates all sources and returns tables and the newly scored (source, split) pairs."""

    def session(generator="id", reuse=True, checkpoints="these", run=run, code="scorer-1", given=GIVEN):
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
            make_identity(checkpoints, generator, code),
            encode=lambda vectors_MD: vectors_MD[:, :1] + 10,
            checkpoints=tmp_path / "checkpoints.safetensors",
            reuse=reuse,
        )
        score_fns = {split: score_on(split) for split in SPLITS}
        tables = evaluate(given, score_fns, store, soup_candidates=1, progress=watched)
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


@pytest.mark.parametrize("changes", [{"checkpoints": "others"}, {"code": "scorer-2"}, {"reuse": False}])
def test_tables_of_other_settings_are_scored_again_and_stored(score, changes):
    score()
    assert score(**changes)[1] == ALL
    assert score(**changes | {"reuse": True})[1] == []


def test_another_generator_reuses_sources_that_need_no_generator(score, tmp_path):
    first, _ = score()
    second, scored = score(generator="other", run=RunDirectory(tmp_path / "second"))
    assert scored == OF_P_DIFF
    for source, table in second.items():
        assert json.loads(table.identity)["generator"] == {"fingerprint": "other"}
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
def test_a_damaged_table_is_scored_again_and_named_in_the_log(score, run, tmp_path, caplog, damage):
    score()
    damage(run.scores("gaussian"))
    with caplog.at_level(logging.WARNING):
        shutil.rmtree(tmp_path / "scores")
        assert score()[1] == [("gaussian", "test")]
    assert "gaussian.npz" in caplog.text
    assert score()[1] == []


def test_interrupted_scoring_resumes_with_the_next_source(score, run):
    score()
    run.scores("p_diff").unlink()
    assert score()[1] == [("p_diff", split) for split in IN_ORDER]


def test_each_table_stores_the_kind_of_its_source(score, run):
    tables, _ = score()
    assert [table.stored_kind for table in tables.values()] == [
        Kind.ORIGINAL, Kind.FREE, Kind.GENERATED, Kind.FREE, Kind.SOUP, Kind.SOUP,
    ]  # fmt: skip
    assert ScoreTable.load(run.scores("soup_p_diff")).stored_kind is Kind.SOUP


def test_only_sources_that_need_no_generator_are_shared_and_without_latents(score, run, tmp_path):
    score()
    folder = make_identity().folder
    names = {path.stem for path in (tmp_path / "scores" / folder).iterdir()}
    assert names == {"original", "ensemble", "gaussian", "soup_original"}
    shared = ScoreTable.load(run.shared_scores(tmp_path / "checkpoints.safetensors", folder, "original"))
    assert "generator" not in json.loads(shared.identity) and shared.latents_ML is None


def test_without_a_checkpoints_file_nothing_is_shared(run, tmp_path):
    store = ScoreStore(run, make_identity(), encode=lambda vectors_MD: vectors_MD)
    scored = Scores(np.zeros(4), np.zeros(4), None)
    store.put(GIVEN[0], ScoreTable("original", MADE["original"].numpy(), {"test": scored}, "", 1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert list(store.find(GIVEN)) == ["original"]


def test_only_the_source_whose_code_or_settings_changed_is_scored_again_and_the_log_names_the_change(
    score, run, tmp_path, caplog
):
    score()
    changed = [replace(source, code={"noise.py": "2"}) if source.name == "gaussian" else source for source in GIVEN]
    with caplog.at_level(logging.INFO):
        assert score(given=changed)[1] == [("gaussian", "test")]
    assert caplog.messages == [
        "The stored scores of gaussian are computed again, because noise.py has changed",
        "Reusing the stored scores of 5 sources",
    ]
    caplog.clear()
    changed[-1] = replace(changed[-1], settings={"lr": 0.1})
    with caplog.at_level(logging.INFO):  # in a new run, the shared table of earlier settings is found
        rescored = score(given=changed, run=RunDirectory(tmp_path / "new"))[1]
    assert {name for name, _ in rescored} == {"gaussian", "p_diff", "soup_p_diff"}
    assert "because source.lr=(absent) stored, 0.1 now" in caplog.text
    assert score(given=changed, run=RunDirectory(tmp_path / "new"))[1] == []


@pytest.mark.parametrize("changes, told", [
    ({"generator": "other"}, "p_diff, soup_p_diff are computed again, because the generator has changed"),
    ({"code": "scorer-2"}, "p_diff, gaussian, soup_original, soup_p_diff .* because scorer.py has changed"),
    ({"checkpoints": "others"}, "p_diff, gaussian, soup_original, soup_p_diff .* the set of checkpoints has changed"),
])  # fmt: skip
def test_all_sources_with_one_reason_share_one_line_of_the_log(score, caplog, changes, told):
    score()
    with caplog.at_level(logging.INFO):
        score(**changes)
    [line] = [message for message in caplog.messages if "computed again" in message]
    assert re.search(told, line)


def test_tables_of_earlier_versions_are_scored_again_with_one_line_in_the_log(score, run, tmp_path, caplog):
    tables, _ = score()
    shutil.rmtree(tmp_path / "scores")
    for name, table in tables.items():
        replace(table, identity="123456789012").save(run.scores(name))  # digits alone are valid JSON
    with caplog.at_level(logging.INFO):
        assert score()[1] == ALL
    [line] = caplog.messages
    assert "older version" in line and all(name in line for name in tables)


def test_changed_images_are_named_without_their_digests():
    stored = {"images": {"val": "1"}, "ood": {"splices": "1"}, "groups": {"test": "1"}, "seed": 0}
    now = {"images": {"val": "2"}, "ood": {"splices": "2"}, "groups": {"test": "2"}, "seed": 1}
    table = ScoreTable("gaussian", np.zeros((1, 2)), {}, json.dumps(stored), 0.0)
    told = "the val split and the set of images splices and the grouping of test images have changed; "
    assert explain(table, now) == told + "seed=0 stored, 1 now"


def test_a_long_list_of_changed_code_is_shortened(score, caplog):
    score(given=[replace(source, code={f"{index}.py": "1" for index in range(9)}) for source in GIVEN])
    with caplog.at_level(logging.INFO):
        score(given=[replace(source, code={f"{index}.py": "2" for index in range(9)}) for source in GIVEN])
    assert "because 0.py and 1.py and 2.py and 3.py and 5 more have changed" in caplog.text


def test_a_source_that_cannot_be_made_is_left_out_with_its_reason(score, caplog):
    def refuse():
        raise UnavailableSource("it needs another network")

    with caplog.at_level(logging.INFO):
        tables, scored = score(given=[*GIVEN, Source("laplace", Kind.TRAINED, refuse)])
    assert "laplace" not in tables and len(tables) == len(MADE) + 2 and scored == ALL
    assert caplog.messages == ["laplace is left out: it needs another network"]


def test_models_that_give_nan_are_named_with_their_source_and_split(caplog):
    def score_fn(vectors_MD):
        accuracy_M = np.zeros(len(vectors_MD))
        return Scores(accuracy_M, vectors_MD[:, 0].double().numpy(), None)

    vectors_MD = torch.ones(9, 2)
    vectors_MD[1:8, 0] = torch.nan
    with caplog.at_level(logging.WARNING):
        check_for_nan("p_diff", "test", score_fn(vectors_MD))
    assert "p_diff: 7 of 9" in caplog.text and "test" in caplog.text and "1, 2, 3, 4, 5 and 2 more" in caplog.text
    assert "soft vote" not in caplog.text, "the task defines no votes"


def test_a_metric_that_is_no_number_is_one_sentence_that_names_the_models():
    rmse = Metric("RMSE", "meters", higher_is_better=False)
    scores = Scores(np.array([1.0, np.nan, 2.0, np.inf]), np.ones(4), None, metric=rmse)
    with pytest.raises(UserError, match=r"p_diff: RMSE on val is not finite for 2 of 4 models \(models 1, 3\)"):
        check_for_nan("p_diff", "val", scores)


class Voter:
    """A scoring function that records its temperatures and returns votes fitted to its own number, or no votes."""

    def __init__(self, fitted):
        self.fitted, self.temperatures, self.confidence, self.defines_votes = fitted, [], fitted / 10, True

    def __call__(self, vectors_MD, temperature_P=None):
        self.temperatures.append(temperature_P)
        fitted_P = np.full(3, self.fitted) if temperature_P is None else None
        voted = votes(0.9, confidence=self.confidence, fitted_P=fitted_P) if self.defines_votes else None
        return Scores(np.zeros(len(vectors_MD)), np.zeros(len(vectors_MD)), None, votes=voted)


@pytest.fixture
def voters():
    return {name: Voter(number) for number, name in enumerate((*EVERY_SPLIT, "splices"), start=1)}


def score_votes(voters, splits, num_models=4, own=None):
    source = Source("gaussian", Kind.FREE, lambda: torch.zeros(num_models, 2), splits, score_fns=own)
    ood_fns = {"splices": voters["splices"]}
    return score_source(source, {split: voters[split] for split in EVERY_SPLIT}, ood_fns)


def test_the_temperatures_of_validation_are_used_on_all_other_images(voters):
    table = score_votes(voters, EVERY_SPLIT)
    assert voters["val"].temperatures == [None]
    for name in ("train", "test", "splices"):
        [temperature_P] = voters[name].temperatures
        np.testing.assert_array_equal(temperature_P, np.full(3, voters["val"].fitted))
    np.testing.assert_allclose(table.ood["splices"], np.full((3, 40), voters["splices"].confidence))


@pytest.mark.parametrize("splits, defines_votes", [(("test",), True), (("val", "test"), False)])
def test_without_votes_on_validation_there_are_no_temperatures_and_no_other_images(voters, splits, defines_votes):
    for voter in voters.values():
        voter.defines_votes = defines_votes
    assert score_votes(voters, splits).ood == {}
    assert voters["test"].temperatures == [None] and voters["splices"].temperatures == []


def test_a_source_with_other_networks_is_scored_by_its_own_functions(voters):
    own = {name: Voter(7) for name in ("val", "test")}
    assert score_votes(voters, ("val", "test"), own=own).ood == {}  # it has no function for these images
    own["splices"] = Voter(8)
    assert score_votes(voters, ("val", "test"), own=own).ood["splices"][0, 0] == pytest.approx(0.8)
    assert not any(voter.temperatures for voter in voters.values())
    assert own["test"].temperatures[0].tolist() == [7] * 3
