"""Numbers in README and docs: what stands behind them, when they are out of date, and how they are written."""

import dataclasses
import shlex

import pytest

from core.runtime.artifacts import write_json
from core.runtime.errors import UserError
from core.runtime.source_code import find_files
from scripts import update_docs
from scripts.measure import result as result_module
from scripts.measure.catalogue import MEASUREMENTS
from scripts.measure.result import RESULTS, Result
from scripts.update_docs import describe_stale, fill_in, find_pages, update

METRICS = {
    "table": [
        {"source": source, "n": 2, "accuracy_mean": mean, "accuracy_best": mean, "accuracy_median": mean}
        | {"accuracy_worst": mean}
        for source, mean in (("original", 0.5), ("ensemble", 0.5), ("p_diff", 0.625))
    ],
    "paper_protocol": {"original": 0.5, "ensemble": 0.5, "p_diff": 0.625},
    "held_out_protocol": {"original": 0.5, "ensemble": 0.5, "p_diff": 0.625},
}
CONFIG = {"seed": 0, "task": {"data": {"dataset": "digits"}, "model": {"name": "tiny"}}}


def make_result(**changes: object) -> Result:
    about = {"git": {"commit": "0123456789"}, "time": "2026-01-02T03:04:05", "versions": {"torch": "9.9"}}
    run = {"folder": "0", "config": CONFIG, "metrics": METRICS}
    given: dict[str, object] = {
        "name": "example",
        "command": "python -m scripts.measure example",
        "steps": ["true"],
        "provenance": about | {"device": "x86_64", "cores": 2},
        "seconds": 61.0,
        "code": {},
        "data": [run],
    }
    return Result(**given | changes)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results that the code under test reads and writes."""
    monkeypatch.setattr(result_module, "RESULTS", tmp_path)
    monkeypatch.setattr(update_docs, "RESULTS", tmp_path)
    return tmp_path


def test_every_page_shows_the_numbers_of_its_results():
    assert [page.name for page in find_pages() if update(page, write=False)] == []


def test_every_committed_result_has_a_measurement_that_repeats_it():
    assert {path.stem for path in RESULTS.glob("*.json")} <= MEASUREMENTS.keys()


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_names_existing_code_and_commands_that_a_shell_can_split(name):
    measurement = MEASUREMENTS[name]
    assert find_files(measurement.code)
    for step in measurement.steps:
        program = shlex.split(step.format(out="OUT", data="DATA", name=name) if "${" not in step else step)
        assert program[0] in {"bash", "python"}


def test_a_result_comes_back_as_it_was_saved(results):
    given = make_result()
    assert given.save() == results / "example.json"
    assert dataclasses.asdict(Result.load("example")) == dataclasses.asdict(given)


def test_a_missing_result_names_the_command_that_makes_it(results):
    with pytest.raises(UserError, match=r"scripts\.measure absent"):
        Result.load("absent")


def test_a_foreign_file_is_refused(results):
    write_json(results / "example.json", {"name": "example"})
    with pytest.raises(UserError, match=r"example\.json"):
        Result.load("example")


def test_a_result_of_other_code_is_listed_with_its_command(results, tmp_path, monkeypatch):
    monkeypatch.setattr(result_module, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text("x = 1\n")
    code = result_module.digest_files(["code.py"])
    make_result(code=code).save()
    assert describe_stale() == ["no result is stale"]
    (tmp_path / "code.py").write_text("x = 2\n")
    [line] = describe_stale()
    assert "code.py" in line and "python -m scripts.measure example" in line and "0123456" in line
    (tmp_path / "code.py").unlink()
    assert Result.load("example").changed_files() == ["code.py"]


def test_marked_places_are_filled_in_and_the_rest_stays(results):
    make_result().save()
    text = "before <!-- result example mean p_diff accuracy_mean -->0<!-- end --> after\n"
    assert fill_in(text) == text.replace("-->0<", "-->62.50<")
    table = fill_in("<!-- result example sources -->\n<!-- end -->\nafter\n")
    assert "| p_diff   |" in table
    assert table.endswith("<!-- end -->\nafter\n")
    assert fill_in(table) == table


def test_minutes_are_those_of_one_run_rounded_up(results):
    make_result().save()
    assert fill_in("<!-- result example minutes -->?<!-- end -->") == "<!-- result example minutes -->2<!-- end -->"


@pytest.mark.parametrize("mark", ["absent sources", "example nonsense", "example repetitions"])
def test_a_wrong_mark_is_refused(results, mark):
    make_result().save()
    with pytest.raises(UserError, match=mark.split()[0 if "absent" in mark else 1].replace("repetitions", "example")):
        fill_in(f"<!-- result {mark} --><!-- end -->")


def test_a_page_is_only_written_when_asked(results, tmp_path):
    make_result().save()
    page = tmp_path / "page.md"
    page.write_text("<!-- result example mean original accuracy_best -->0<!-- end -->")
    assert update(page, write=False)
    assert "-->0<" in page.read_text()
    assert update(page, write=True)
    assert "-->50.00<" in page.read_text()
    assert not update(page, write=True)
