"""Files that earlier versions wrote (fixtures/, a run of commit 0a0dcc2) can still be read."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.evaluation.kinds import Kind
from core.evaluation.scores import ACCURACY, ScoreTable
from core.evaluation.trajectories import Trajectories
from core.evaluation.verdict import Decision, Novelty, Outcome, Verdict
from core.report.run_files import read_history, read_metrics, read_verdict
from core.report.sentences import word_verdict
from core.report.source_table import build_source_table
from core.report.tables import build_comparison_table
from core.report.worth_table import build_worth_table
from core.runtime.arrays import save_arrays
from core.runtime.artifacts import write_json
from core.runtime.errors import UserError
from tests.core.tiny import change_array

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.fixture
def metrics():
    return read_metrics(FIXTURES / "metrics.json")


def test_the_verdict_of_an_earlier_file_is_parsed_with_all_its_numbers(metrics):
    verdict, stored = read_verdict(metrics, FIXTURES / "metrics.json"), metrics["verdict"]
    content = verdict.to_json()
    parsed = {row["baseline"]: row for row in content["comparisons"]}
    assert parsed.keys() == {row["baseline"] for row in stored["comparisons"]}
    assert all(row.items() <= parsed[row["baseline"]].items() for row in stored["comparisons"])
    assert [content[key] for key in ("p_diff", "variance_kept")] == [stored[key] for key in ("p_diff", "variance_kept")]
    assert Verdict.from_json(content) == verdict
    assert all(word_verdict(verdict)["sentences"])


def test_the_parsed_fields_equal_the_file(metrics):
    verdict = read_verdict(metrics, FIXTURES / "metrics.json")
    row = next(row for row in metrics["verdict"]["comparisons"] if row["baseline"] == "average_3")
    average = verdict.get_comparison("average_3")
    assert (average.accuracy.value, average.accuracy.interval) == (
        row["accuracy_difference"],
        tuple(row["accuracy_interval"]),
    )
    assert (average.accuracy.decision, average.max_iou.decision) == (Decision.WORSE, Decision.UNDECIDED)
    assert average.outcome is Outcome.IS_DOMINATED and verdict.novelty is Novelty.AS_CLOSE
    assert (verdict.reference, verdict.answer, verdict.p_diff.n) == ("average_3", Decision.WORSE, 5)


def test_the_tables_of_an_earlier_file_are_shown(metrics):
    verdict = read_verdict(metrics, FIXTURES / "metrics.json")
    numbers = {row[0].text: (row[1].text, row[3].value) for row in build_source_table(metrics).rows}
    assert {source: mean for source, (_, mean) in numbers.items()} == {
        row["source"]: row["accuracy_mean"] for row in metrics["table"]
    }
    assert {group for group, _ in numbers.values()} == {"original", "generated", "free", "trained"}
    assert build_worth_table(metrics) is None
    shown = {row[0].text: row[2].text for row in build_comparison_table(verdict).rows}
    assert shown == {row["baseline"]: row["outcome"] for row in metrics["verdict"]["comparisons"]}


def test_a_score_table_without_a_kind_or_a_metric_is_read():
    table = ScoreTable.load(FIXTURES / "soup_p_diff.npz")
    assert (table.source, table.kind, table.stored_kind) == ("soup_p_diff", Kind.SOUP, None)
    assert set(table.scores) == {"val", "test"} and table.scores["test"].metric == ACCURACY
    assert len(table.vectors_MD) == len(table.latents_ML) == 1


def test_a_verdict_may_be_missing_but_not_have_another_format(metrics, tmp_path):
    assert read_verdict({}, tmp_path / "metrics.json") is None
    with pytest.raises(UserError, match=r"metrics\.json \(KeyError"):
        read_verdict(metrics | {"verdict": {"sentences": []}}, tmp_path / "metrics.json")


@pytest.mark.parametrize(
    "name, arrays, read",
    [
        ("trajectories.npz", {"timesteps_S": np.arange(3), "accuracy_TS": np.ones((2, 3))}, Trajectories.load),
        (
            "training_history.npz",
            {"history_ED": np.ones((2, 5)), "names": np.array(["a"]), "sizes": np.array([5])},
            read_history,
        ),
    ],
)
def test_a_changed_array_is_refused_and_a_file_without_hashes_is_read(tmp_path, name, arrays, read):
    path = tmp_path / name
    np.savez(path, **arrays)
    before = read(path)
    save_arrays(path, arrays)
    np.testing.assert_equal(vars(read(path)), vars(before))
    for array in arrays:
        save_arrays(path, arrays)
        change_array(path, array)
        with pytest.raises(UserError, match=rf"{name} \(array {array} .* mode=test"):
            read(path)


def test_changed_metrics_are_refused(metrics, tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, metrics)
    assert read_metrics(path) == metrics
    path.write_text(path.read_text().replace('"accuracy_best": 0.', '"accuracy_best": 1.', 1))
    with pytest.raises(UserError, match=r"metrics\.json \(its content was changed"):
        read_metrics(path)


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda metrics: metrics.pop("paper_protocol"), "paper_protocol"),
        (lambda metrics: metrics.update(held_out_protocol=[]), "held_out_protocol"),
        (lambda metrics: metrics["table"].append("p_diff"), "table"),
        (lambda metrics: metrics["table"][1].pop("accuracy_median"), "accuracy_median"),
        (lambda metrics: metrics.update(table={}), "table"),
    ],
    ids=["no protocol", "another protocol", "no row", "no median", "another table"],
)
def test_invalid_metrics_are_refused_with_the_entry_that_is_wrong(metrics, tmp_path, damage, named):
    damage(metrics)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match=rf"metrics\.json is invalid: .*{named}.* mode=test"):
        read_metrics(tmp_path / "metrics.json")
