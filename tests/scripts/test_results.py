"""Numbers in README and docs: what stands behind them, when they are out of date, and how they are written."""

import dataclasses
import re
import shlex

import pytest

from core.runtime.artifacts import write_json
from core.runtime.errors import UserError
from core.runtime.source_code import find_files
from scripts import update_docs
from scripts.measure import result as result_module
from scripts.measure.catalogue import MEASUREMENTS
from scripts.measure.result import RESULTS, Result
from scripts.measure.views import VIEWS
from scripts.update_docs import PLACE, describe_stale, fill_in, find_pages, update

CONFIG = {"seed": 0, "task": {"data": {"dataset": "digits"}, "model": {"name": "tiny"}}}


def make_metrics(p_diff: float = 0.625, answer: str = "better", novelty: str = "newer") -> dict:
    """Return the metrics of a run in which only p_diff's accuracy and the verdict vary."""
    accuracies = {"original": 0.5, "ensemble": 0.5, "p_diff": p_diff}
    return {
        "table": [
            {"source": source, "n": 2, "accuracy_mean": mean, "accuracy_best": mean, "accuracy_median": mean}
            | {"accuracy_worst": mean, "max_iou_mean": mean / 2}
            for source, mean in accuracies.items()
        ],
        "paper_protocol": accuracies,
        "held_out_protocol": accuracies,
        "verdict": {
            "sentences": ["Yes, they are."],
            "reference": "ensemble",
            "answer": answer,
            "novelty": novelty,
            "comparisons": [
                {"baseline": "ensemble", "accuracy_difference": p_diff - 0.5},
                {
                    "baseline": "original",
                    "accuracy_difference": p_diff - 0.5,
                    "accuracy_interval": [p_diff - 0.75, p_diff - 0.25],
                    "accuracy_level": 0.985,
                },
            ],
            "variance_kept": 0.937,
        },
        "seconds": {"train_task": 30.0, "score": 90.0},
    }


def make_run(folder: str = "0", seed: int = 0, **metrics) -> dict:
    return {"folder": folder, "config": CONFIG | {"seed": seed}, "metrics": make_metrics(**metrics)}


def make_sweep() -> list[dict]:
    """Return two runs with other denoisers and other values of K."""
    runs = [make_run("small", p_diff=0.625), make_run("large", p_diff=0.75)]
    for run, k, denoiser in zip(runs, (10, 100), ("Conv", "MLP"), strict=True):
        run["config"] = CONFIG | {"task": CONFIG["task"] | {"param": {"k": k}}}
        run["config"]["system"] = {"denoiser": {"_target_": f"core.networks.denoiser.{denoiser}Denoiser"}}
    return runs


def make_result(**changes: object) -> Result:
    about = {"git": {"commit": "0123456789"}, "time": "2026-01-02T03:04:05", "versions": {"torch": "9.9"}}
    given: dict[str, object] = {
        "name": "example",
        "command": "python -m scripts.measure example",
        "steps": ["true"],
        "provenance": about | {"device": "x86_64", "cores": 2},
        "seconds": 61.0,
        "code": {},
        "data": [make_run()],
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
    assert "| p_diff     |" in table
    assert table.endswith("<!-- end -->\nafter\n")
    assert fill_in(table) == table


def test_measurements_without_a_result_yet_are_left_out_and_named(results, monkeypatch):
    monkeypatch.setattr(update_docs, "MEASUREMENTS", {"example": None, "later": None})
    make_result().save()
    assert fill_mark("later mean p_diff accuracy_mean") == "not measured yet"
    assert fill_mark("example,later mean p_diff accuracy_mean") == "62.50"
    assert fill_mark("example,later labeled one,two") == "not measured yet", "the rest does not suffice for this view"
    assert fill_in("<!-- result later sources -->\n<!-- end -->").splitlines()[1] == "not measured yet: later"
    table = fill_in("<!-- result example,later sources -->\n<!-- end -->")
    assert "| p_diff     |" in table and table.splitlines()[-2] == "Not measured yet: later"


def test_minutes_are_those_of_one_run_rounded_up(results):
    make_result().save()
    assert fill_in("<!-- result example minutes -->?<!-- end -->") == "<!-- result example minutes -->2<!-- end -->"


def fill_mark(mark: str, before: str = "0") -> str:
    """Return the text that replaces `before` in a marked place within a sentence."""
    text = fill_in(f"a <!-- result {mark} -->{before}<!-- end --> z")
    assert text.startswith(f"a <!-- result {mark} -->") and text.endswith("<!-- end --> z")
    return text.removeprefix(f"a <!-- result {mark} -->").removesuffix("<!-- end --> z")


@pytest.mark.parametrize(
    "mark, said",
    [
        ("absent sources", r"absent\.json"),
        ("example nonsense", "nonsense"),
        ("example repetitions", r"example\.json"),
        ("example expected p_diff accuracy_mean", "one training"),
        ("example chance p_diff accuracy_mean", "one training"),
        ("example chosen_sources p_diff,nonsense", "nonsense"),
        ("sweep labeled one", "2 runs"),
        ("sweep labeled one,two,three", "3 labels"),
        ("example mean p_diff", "key"),
        ("example mean p_diff nonsense", "nonsense"),
        ("example mean nonsense accuracy_mean", "nonsense"),
        ("example sources seed=7", "seed=7"),
        ("example change p_diff accuracy_mean seed=0", r"\bto\b"),
        ("sweep sources", "2 runs"),
    ],
)
def test_a_wrong_mark_is_refused(results, mark, said):
    make_result().save()
    make_result(name="sweep", data=make_sweep()).save()
    with pytest.raises(UserError, match=said):
        fill_mark(mark)


@pytest.mark.parametrize(
    "mark, shown",
    [
        ("value p_diff accuracy_mean task.param.k=100", "75.00"),
        ("value p_diff accuracy_mean system.denoiser=ConvDenoiser", "62.50"),
        ("value p_diff max_iou_mean folder=large", "0.375"),
        ("mean original max_iou_mean task.param.k=10", "0.250"),
        ("change p_diff accuracy_mean task.param.k=10 to task.param.k=100", "+12.50"),
        ("change p_diff max_iou_mean task.param.k=100 to task.param.k=10", "−0.062"),
        ("difference p_diff original accuracy_mean task.param.k=100", "+25.00"),
        ("range p_diff accuracy_mean", "62.50 to 75.00"),
        ("variance_kept task.param.k=10", "94%"),
        ("lead original task.param.k=100", "+25.00 (98.5% interval +0.00 to +50.00)"),
        ("cores", "2"),
    ],
)
def test_a_number_of_a_sweep_stands_within_a_sentence(results, mark, shown):
    make_result(name="sweep", data=make_sweep()).save()
    assert fill_mark(f"sweep {mark}") == shown


def test_a_run_is_chosen_by_its_settings(results):
    make_result(name="sweep", data=make_sweep()).save()
    table = fill_mark("sweep sources task.param.k=100", "\n")
    assert "75.00" in table and "62.50" not in table
    assert fill_mark("sweep verdict task.param.k=100", "\n") == "\n> Yes, they are.\n"


@pytest.fixture
def repeated(results):
    """Three trainings of one setting."""
    outcomes = [(0.6, "better", "memorized"), (0.7, "undecided", "newer"), (0.8, "undecided", "memorized")]
    runs = [
        make_run(str(seed), seed, p_diff=p_diff, answer=answer, novelty=novelty)
        for seed, (p_diff, answer, novelty) in enumerate(outcomes)
    ]
    return make_result(data=runs).save()


@pytest.mark.parametrize(
    "mark, shown",
    [  # the standard deviation is 10, t(0.975, 2) is 4.3027, and so the half-width of the mean is 24.84
        ("mean p_diff accuracy_mean", "70.00 ± 24.84"),
        ("difference p_diff original accuracy_mean", "+20.00 ± 24.84"),
        ("expected p_diff accuracy_mean", "20.32 to 119.68"),
        ("chance p_diff accuracy_mean", "60.85"),
        ("range p_diff accuracy_mean", "60.00 to 80.00"),
        ("value p_diff accuracy_mean seed=1", "70.00"),
    ],
)
def test_repeated_trainings_are_averaged(repeated, mark, shown):
    assert fill_mark(f"example {mark}") == shown


def test_the_verdicts_of_repeated_trainings_are_counted(repeated):
    sentence = fill_mark("example outcomes")
    assert "In 3 trainings" in sentence
    assert "than every free source in 1, measurably less accurate than one of them in 0, and neither in 2" in sentence
    assert "memorized in 2 and newer in 1" in sentence


def read_cells(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table without the line under its header."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:1] + lines[2:]]


def test_a_short_table_shows_a_row_per_setting_with_the_intervals_of_each_verdict(results):
    make_result(name="sweep", data=make_sweep()).save()
    header, *rows = read_cells(fill_mark("sweep short", "\n"))
    assert header[:5] == ["k", "original", "ensemble", "p_diff", "best"]
    assert [row[0] for row in rows] == ["10", "100"]
    shown = dict(zip(header, rows[1], strict=True))
    assert shown["minus original"] == "+25.00 [+0.00, +50.00]"
    assert (shown["reference"], shown["minus reference"]) == ("ensemble", "+25.00")


def test_a_short_table_averages_the_trainings_of_one_setting(repeated):
    header, row = read_cells(fill_mark("example short", "\n"))
    shown = dict(zip(header, row, strict=True))
    assert (shown["network"], shown["p_diff"]) == ("tiny", "70.00 ± 24.84") and "best" not in header
    assert shown["minus original"] == shown["minus reference"] == "+20.00 ± 24.84"


def test_rows_can_have_labels_in_place_of_settings(results):
    make_result(name="sweep", data=make_sweep()).save()
    header, *rows = read_cells(fill_mark("sweep labeled the_large_one,small", "\n"))
    assert header[:2] == ["system", "original"]
    assert [(row[0], row[3]) for row in rows] == [("the large one", "75.00"), ("small", "62.50")]


def test_equal_last_words_of_two_settings_are_told_apart(results):
    runs = make_sweep()
    for lr, run in enumerate(runs):
        run["config"]["system"] = {"a": {"lr": lr}, "b": {"lr": lr % 2 * (1 + lr)}}
    runs.append(
        {**runs[0], "folder": "third", "config": runs[0]["config"] | {"system": {"a": {"lr": 2}, "b": {"lr": 2}}}}
    )
    make_result(name="sweep", data=runs).save()
    header, *_ = read_cells(fill_mark("sweep short", "\n"))
    assert header[:3] == ["k", "a.lr", "b.lr"]


def make_sources(accuracies: dict[str, float]) -> dict:
    """Return a run with one row for each source."""
    run = make_run()
    run["metrics"]["table"] = [{"source": name, "accuracy_mean": mean} for name, mean in accuracies.items()]
    return run


def test_a_table_of_chosen_sources_adds_every_free_source_that_is_ahead_of_p_diff(results):
    means = {"original": 0.5, "swag": 0.8, "ema": 0.6, "p_diff": 0.625, "gaussian": 0.75, "continued": 0.9}
    make_result(data=[make_sources(means)]).save()
    rows = read_cells(fill_mark("example chosen_sources original,p_diff", "\n"))
    assert [row[0] for row in rows] == ["source", "original", "p_diff", "swag", "gaussian"]
    assert [row[1] for row in rows] == ["group", "original", "generated", "free", "free"]
    assert rows[1][-1] == "+12.50 [−12.50, +37.50]" and rows[3][-1] == "−17.50"
    assert fill_mark("example ahead") == "`swag` and `gaussian`"


def test_nothing_may_be_ahead_of_p_diff(results):
    make_result().save()
    assert fill_mark("example ahead") == "none"


def test_references_are_named_with_their_numbers_of_runs(results):
    runs = [make_run(str(seed), seed) for seed in range(3)]
    make_result(data=runs).save()
    assert fill_mark("example references") == "`ensemble`"
    runs[1]["metrics"]["verdict"]["reference"] = "original"
    make_result(data=runs).save()
    assert fill_mark("example references") == "`ensemble` (2 of 3) and `original` (1 of 3)"


def test_the_origin_names_all_days_and_commits(results):
    make_result().save()
    assert "on 2026-01-02 with `python -m scripts.measure example` at commit 0123456" in fill_mark("example origin")
    about = make_result().provenance | {"git": {"commit": "9876543210"}, "time": "2026-01-03T00:00:00"}
    make_result(name="later", provenance=about).save()
    assert "from 2026-01-02 to 2026-01-03" in fill_mark("example,later origin")
    assert "at commit 0123456 and 9876543," in fill_mark("example,later origin")


def test_the_seconds_of_a_stage_are_shown_with_their_share(repeated):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in fill_mark("example seconds").splitlines()]
    assert ["train the classifier", "30.0", "25.00"] in rows and ["all stages", "120.0", "100.00"] in rows


def test_a_table_may_grow_and_shrink_and_a_second_run_changes_nothing(results, repeated):
    mark = "<!-- result example comparison -->"
    make_result(data=make_sweep()).save()
    two_rows = fill_in(f"text\n\n{mark}\n<!-- end -->\n\nmore text\n")
    make_result(data=[make_run(str(seed), seed) for seed in range(5)]).save()
    five_rows = fill_in(two_rows)
    assert (two_rows.count("\n|"), five_rows.count("\n|")) == (4, 7)
    assert five_rows.startswith(f"text\n\n{mark}\n| dataset") and five_rows.endswith("|\n<!-- end -->\n\nmore text\n")
    make_result(data=make_sweep()).save()
    for text in (two_rows, five_rows, two_rows.replace(f"{mark}\n", f"{mark}\n\n")):
        assert fill_in(text) == two_rows


def test_a_benchmark_is_one_run(results):
    make_result(data={"machine": {}, "scoring": [], "growth": []}).save()
    assert fill_mark("example minutes") == "2"


@pytest.mark.parametrize("page", find_pages(), ids=lambda page: page.name)
def test_marks_fit_markdown_and_the_catalogue(page):
    text = page.read_text()
    assert text.count("<!-- result ") == text.count("<!-- end -->") == len(PLACE.findall(text))
    code = "\n".join(re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL))
    assert "<!-- result" not in code, "Markdown shows a mark inside a code block"
    within_sentence = re.findall(r"^<!-- result [^\n]*-->[^\n]+$", text, re.MULTILINE)
    assert not within_sentence, "a line that starts with a comment is no Markdown"
    for _, names, view, *_ in PLACE.findall(text):
        assert set(names.split(",")) <= MEASUREMENTS.keys() and view in VIEWS


def test_a_page_is_only_written_when_asked(results, tmp_path):
    make_result().save()
    page = tmp_path / "page.md"
    page.write_text("<!-- result example mean original accuracy_best -->0<!-- end -->")
    assert update(page, write=False)
    assert "-->0<" in page.read_text()
    assert update(page, write=True)
    assert "-->50.00<" in page.read_text()
    assert not update(page, write=True)
