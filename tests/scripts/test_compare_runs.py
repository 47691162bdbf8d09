"""Several runs in one table: the paper's columns, the differing settings, a figure per sweep, bad folders named."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.command_line.run_command import run_command
from core.report.compared_runs import differing_settings, read_runs, swept_settings
from core.report.comparison import build_lines
from core.report.comparison_table import build_table
from scripts import compare_runs
from tests.core.report.synthetic import write_run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("template") / "run", k=8, m=6, d=16, n=60, latent=None)


@pytest.fixture
def made(template, tmp_path):
    """Return a function that makes a run's folder, given p_diff's best accuracy and settings by dotted name."""

    def make(name: str, best: float = 0.9, settings: dict | None = None) -> Path:
        folder = Path(shutil.copytree(template, tmp_path / name))
        config = OmegaConf.load(folder / "config.yaml")
        for key, value in ({"output_dir": name, "task.param.path": f"{name}/checkpoints"} | (settings or {})).items():
            OmegaConf.update(config, key, value)
        OmegaConf.save(config, folder / "config.yaml")
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["paper_protocol"]["p_diff"] = best
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return make


def call(monkeypatch, *words) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["compare_runs", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        run_command(compare_runs.main)
    return stopped.value.code


def cells(markdown: str) -> list[dict[str, str]]:
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")
    )
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_each_run_is_a_row_with_the_papers_columns_and_its_numbers(made, monkeypatch, capsys):
    folders = [
        made("a", 0.9, {"task.data.dataset": "cifar100"}),
        made("b", 0.8, {"task.model.name": "vit_tiny_patch16_224"}),
    ]
    assert call(monkeypatch, *folders) == 0
    first, second = cells(capsys.readouterr().out)
    assert list(first)[:4] == ["dataset, model", "original %", "ensemble %", "p_diff %"]
    assert (first["dataset, model"], first["p_diff %"]) == ("cifar100, resnet18", "90.00")
    assert (second["dataset, model"], second["p_diff %"]) == ("digits, vit_tiny_patch16_224", "80.00")
    metrics = json.loads((folders[0] / "metrics.json").read_text())
    assert first["original mean %"] == f"{100 * metrics['table'][0]['accuracy_mean']:.2f}"
    assert first["p_diff held out %"] == f"{100 * metrics['held_out_protocol']['p_diff']:.2f}"
    assert (
        first["paper: original / ensemble / p_diff"] == "77.4 / 77.7 / 77.9"
        and second["paper: original / ensemble / p_diff"] == "–"
    )


def test_columns_of_later_versions_stand_only_where_a_run_can_fill_them(made):
    folder = made("new")
    (row,) = cells(build_table(read_runs([folder])[0]).markdown())
    metrics = json.loads((folder / "metrics.json").read_text())
    means = {each["source"]: each["accuracy_mean"] for each in metrics["table"]}
    difference = 100 * (means["p_diff"] - means[metrics["verdict"]["reference"]])
    assert float(row["p_diff minus free, points"].replace("−", "-")) == pytest.approx(difference, abs=0.01)
    assert float(row["p_diff κ rel."]) < 2
    del metrics["verdict"]["reference"]
    for each in metrics["table"]:
        del each["kappa_relative_mean"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (old,) = cells(build_table(read_runs([folder])[0]).markdown())
    assert list(old) == [name for name in row if name not in ("p_diff minus free, points", "p_diff κ rel.")]


def test_only_settings_that_differ_within_a_dataset_and_model_are_shown(made):
    folders = [
        made("a", settings={"task.param.k": 50}),
        made("b", settings={"task.param.k": 200}),
        made("c", settings={"task.data.dataset": "mnist", "task.epochs": 99}),
    ]
    compared, problems = read_runs(folders)
    assert differing_settings(compared) == ["task.param.k"] and not problems
    table = build_table(compared)
    assert [column.label for column in table.columns][1] == "task.param.k" and [row[1].text for row in table.rows] == [
        "50",
        "200",
        "8",
    ]


def test_if_a_class_differs_the_options_of_each_class_are_not_shown(made):
    conv = {
        "system.coder": {"_target_": "package.Conv", "channels": 8, "noise": 0.1},
        "system.sampler": {"_target_": "package.DDIM", "num_steps": 50},
    }
    pca = {"system.coder": {"_target_": "package.PCA", "channels": 9}, "system.sampler": None}
    compared, _ = read_runs(
        [
            made("a", settings=conv),
            made("b", settings=pca),
            made("ab", settings={**conv, "system.coder": pca["system.coder"]}),
        ]
    )
    assert differing_settings(compared) == ["system.sampler._target_", "system.coder._target_"]
    table = build_table(compared)
    assert [column.label for column in table.columns][1:3] == ["system.sampler", "system.coder"]
    assert [[cell.text for cell in row[1:3]] for row in table.rows] == [["DDIM", "Conv"], ["DDIM", "PCA"], ["–", "PCA"]]

    loud = {**conv, "system.coder": conv["system.coder"] | {"noise": 0.5}}
    compared, _ = read_runs([made("c", settings=conv), made("d", settings=pca), made("e", settings=loud)])
    assert differing_settings(compared) == ["system.sampler._target_", "system.coder.noise"]


def test_a_list_is_shown_by_its_items(made):
    compared, _ = read_runs(
        [
            made("a", settings={"task.param.subset": ["fc.*", "conv1.*"]}),
            made("b", settings={"task.param.subset": "all"}),
        ]
    )
    assert [row[1].text for row in build_table(compared).rows] == ["fc.*, conv1.*", "all"]


def test_of_settings_that_change_together_one_is_shown(made):
    settings = [
        {
            "system.note": f"for {epochs}",
            "task.epochs": epochs,
            "task.warmup": 2 * epochs,
            "seed": epochs,
            "task.seed": epochs,
        }
        for epochs in (1, 3)
    ]
    folders = [made(f"r{index}", settings=chosen) for index, chosen in enumerate(settings)]
    assert sorted(differing_settings(read_runs(folders)[0])) == ["seed", "task.epochs"], (
        "a number replaces words, and a seed only other seeds"
    )


def test_runs_are_sorted_by_numbers_and_words_keep_the_given_order(made):
    settings = [("b", 100), ("b", 20), ("a", 100), ("a", 20)]
    folders = [
        made(f"r{index}", settings={"system.coder": word, "task.param.k": k})
        for index, (word, k) in enumerate(settings)
    ]
    compared, _ = read_runs(folders)
    assert {(run.settings["system.coder"], run.settings["task.param.k"]) for run in compared} == set(settings)
    assert [run.settings["task.param.k"] for run in compared] == [20, 20, 100, 100]
    other = [made(f"s{index}", settings={"system.coder": word}) for index, word in enumerate(["z", "y"])]
    assert [run.settings["system.coder"] for run in read_runs(other)[0]] == ["z", "y"]


def test_there_is_one_figure_per_swept_setting_and_none_for_seeds_or_paths(made, monkeypatch, tmp_path, capsys):
    folders = [
        made(
            f"{k}_{seed}",
            settings={"task.param.k": k, "seed": seed, "system.name": f"system{k}", "system.latent_noise": 0.1},
        )
        for k in (10, 50)
        for seed in (1, 2)
    ]
    assert call(monkeypatch, *folders, "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "compare.md",
        "compare.csv",
        "sweep_task.param.k.png",
        "sweep_task.param.k.svg",
    }
    page, printed = (tmp_path / "out" / "compare.md").read_text(), capsys.readouterr().out
    assert page.startswith(printed) and "](sweep_task.param.k.svg)" in page[len(printed) :]
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open()))
    assert [row["task.param.k"] for row in rows] == ["10", "10", "50", "50"] and [
        float(row["p_diff_best"]) for row in rows
    ] == [0.9] * 4
    assert rows[0]["run"] == str(folders[0])


def test_seeds_share_a_line_and_other_settings_make_further_lines(made):
    grid = [(k, noise, seed) for k in (10, 50) for noise in (0.1, 0.5) for seed in (1, 2)]
    folders = [
        made(f"r{index}", 0.5 + index / 100, {"task.param.k": k, "system.latent_noise": noise, "seed": seed})
        for index, (k, noise, seed) in enumerate(grid)
    ]
    compared, _ = read_runs(folders)
    assert swept_settings(compared) == ["task.param.k", "system.latent_noise"]
    over_k = build_lines(compared, "task.param.k")
    assert list(over_k) == ["digits, resnet18, system.latent_noise=0.1", "digits, resnet18, system.latent_noise=0.5"]
    points = over_k["digits, resnet18, system.latent_noise=0.5"]
    assert [point.value for point in points] == [10, 10, 50, 50] and [
        point.p_diff_best for point in points
    ] == pytest.approx([0.52, 0.53, 0.56, 0.57])


def test_switches_and_classes_are_words_on_the_axis(made, monkeypatch, tmp_path):
    coders = {"a": {"_target_": "package.Conv", "channels": 8}, "b": {"_target_": "package.PCA"}}
    folders = [
        made(f"{name}{pretrained}", settings={"task.model.pretrained": pretrained, "system.coder": coders[name]})
        for name in coders
        for pretrained in (True, False)
    ]
    compared, _ = read_runs(folders)
    assert swept_settings(compared) == ["task.model.pretrained", "system.coder._target_"]
    over = build_lines(compared, "system.coder._target_")
    assert list(over) == [
        "digits, resnet18, task.model.pretrained=True",
        "digits, resnet18, task.model.pretrained=False",
    ]
    assert [point.value for point in over["digits, resnet18, task.model.pretrained=True"]] == ["Conv", "PCA"]
    assert {point.value for points in build_lines(compared, "task.model.pretrained").values() for point in points} == {
        "True",
        "False",
    }
    assert call(monkeypatch, *folders, "--out", tmp_path / "out") == 0
    assert {"sweep_system.coder.png", "sweep_task.model.pretrained.svg"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_folders_that_cannot_be_compared_are_named_and_the_others_compared(made, monkeypatch, tmp_path, capsys):
    good, cut, bare = made("good"), made("cut"), made("bare")
    (cut / "metrics.json").write_text('{"table": [')
    (bare / "config.yaml").unlink()
    assert call(monkeypatch, good, cut, bare, tmp_path / "absent") == 0
    printed = capsys.readouterr()
    assert len(cells(printed.out)) == 1
    named = printed.err.splitlines()
    assert len(named) == 3 and all(line.startswith("skipped: ") for line in named)
    assert "cut/metrics.json" in named[0] and "bare/config.yaml" in named[1] and "absent" in named[2]


def test_without_any_run_the_status_is_an_error(monkeypatch, tmp_path, capsys):
    assert "2 folders" in call(monkeypatch, tmp_path / "a", tmp_path / "b")
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 2


def test_the_same_folder_counts_once(made):
    folder = made("a")
    assert len(read_runs([folder, folder])[0]) == 1


def test_repeated_runs_are_averaged_with_an_interval_and_by_source(made, monkeypatch, capsys, tmp_path):
    folders = [made(f"seed{seed}", best, {"seed": seed}) for seed, best in ((0, 0.8), (1, 0.9), (2, 1.0))]
    assert call(monkeypatch, *folders, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    tables = [part for part in printed.split("\n\n") if part.startswith("|")]
    (averaged,) = cells(tables[-2])
    assert averaged["trainings"] == "3" and averaged["p_diff %"] == "90.00 ± 24.84"  # t(0.975, 2) · 10 / √3
    by_source = {row["source"]: row for row in cells(tables[-1])}
    assert by_source["p_diff"]["p_diff minus it, points"] == "–"
    assert by_source["original"]["p_diff minus it, points"].endswith("± 0.00")  # all runs have equal tables
    assert tables[-1] in (tmp_path / "out/compare.md").read_text()


def test_a_folder_of_runs_stands_for_the_runs_below_it(made, monkeypatch, capsys, tmp_path):
    folders = [made("deep/a/run", settings={"task.param.k": 50}), made("deep/b", settings={"task.param.k": 200})]
    assert call(monkeypatch, tmp_path / "deep") == 0
    captured = capsys.readouterr()
    assert len(cells(captured.out)) == len(folders) and captured.err == ""
