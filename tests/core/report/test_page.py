"""The page is self-contained, starts with the verdict, names damaged files and shows the rest."""

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from core.evaluation.scores import Scores, ScoreTable
from core.report.cells import format_signed
from core.report.page import write_page
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from tests.core.report.synthetic import SENTENCES

FIGURES = {
    "differences", "accuracy_vs_max_iou", "max_iou", "iou_matrix", "min_l2", "weights_over_nearest", "weight_densities",
    "pca_weights", "tsne_weights", "pca_latents", "tsne_latents", "reverse_diffusion", "training_history",
    "worth", "worth_measures",
}  # fmt: skip


WORTH = {"worth", "worth_measures"}
PROBLEMS = 'id="problems"'  # the section that names missing and damaged files


def figures_on(html: str) -> set[str]:
    return set(re.findall(r'<figure id="(\w+)"', html))


def problems_on(html: str) -> str:
    return html[html.index(PROBLEMS) : html.index('id="verdict"')]


def test_a_whole_run_gives_every_figure_as_png_and_svg_and_on_the_page(reported):
    files = {path.name for path in (reported / "report" / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    html = (reported / "report" / "index.html").read_text()
    assert figures_on(html) == FIGURES and html.count("data:image/svg+xml;base64,") == len(FIGURES)
    assert PROBLEMS not in html


def test_the_page_refers_to_nothing_outside_itself(reported):
    html = (reported / "report" / "index.html").read_text()
    targets = re.findall(r'(?:src|href|action|data)="([^"]*)"', html) + re.findall(r"url\(([^)]*)\)", html)
    assert targets and all(target.startswith(("#", "data:")) for target in targets)
    assert not re.search(r"https?://|@import|<link(?! rel=\"icon\" href=\"data:)", html)
    assert {target[1:] for target in targets if target.startswith("#")} <= set(re.findall(r'id="(\w+)"', html))


def test_the_verdict_comes_first_then_the_sources_then_the_figures(reported):
    html = (reported / "report" / "index.html").read_text()
    sections = [html.index(f'id="{name}"') for name in ("figures", "protocols", "use", "provenance")]
    order = [html.index('id="verdict"'), html.index(SENTENCES[0]), html.index('id="differences"')]
    order += [*map(html.index, SENTENCES[1:]), html.index('id="sources"'), *sections]
    assert order == sorted(order)


def test_the_first_screen_tells_what_was_trained_and_generated_and_the_numbers_of_the_verdict(reported):
    html = (reported / "report" / "index.html").read_text()
    first = html[html.index("<header>") : html.index('id="details"')]
    for fact in ("resnet18", "digits", "K = 40", "D = 64", "ae_ddpm", "M = 24", "400 test images"):
        assert fact in first, fact
    verdict = json.loads((reported / "metrics.json").read_text())["verdict"]
    against = next(row for row in verdict["comparisons"] if row["baseline"] == "average_16")
    assert format_signed(against["accuracy_difference"], 100, 2) in first
    assert format_signed(against["max_iou_difference"]) in first
    assert len(figures_on(first)) == 1


def test_every_source_and_every_measure_is_explained_under_its_table(reported):
    html = (reported / "report" / "index.html").read_text()
    metrics = json.loads((reported / "metrics.json").read_text())
    sources = {row["source"] for row in metrics["table"]}
    for start, end, named in (
        ("sources", "similarity", sources),
        ("similarity", "worth", set()),
        ("worth", "figures", set()),
    ):
        section = html[html.index(f'<section id="{start}"') : html.index(f'<section id="{end}"')]
        terms = re.findall(r"<dt>(.*?):</dt> <dd>(.*?)</dd>", section)
        assert all(len(explanation) > 10 for _, explanation in terms)
        headers = {header for header in re.findall(r'<th scope="col".*?>(.*?)</th>', section) if header != "source"}
        assert named | headers == {term for term, _ in terms if term != "source"}, start


def test_votes_have_a_section_with_both_figures_and_the_table(reported, run, fast_figures):
    html = (reported / "report" / "index.html").read_text()
    section = html[html.index('<section id="worth"') : html.index('<section id="figures"')]
    assert figures_on(section) == {"worth", "worth_measures"} and section.count("<tr") == 12
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["worth"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    html = write_page(run).read_text()
    assert 'id="worth"' not in html and "#worth" not in html and figures_on(html) == FIGURES - WORTH


def test_numbers_on_the_page_equal_metrics_json(reported):
    html = (reported / "report" / "index.html").read_text()
    metrics = json.loads((reported / "metrics.json").read_text())
    for row in metrics["table"]:
        shown = re.search(
            rf'<th scope="row" data-value="{row["source"]}">.*?</tr>', html[html.index('id="sources"') :], re.DOTALL
        ).group()
        assert f'data-value="{row["accuracy_mean"]}">{100 * row["accuracy_mean"]:.2f}<' in shown
        similar = re.search(
            rf'<th scope="row" data-value="{row["source"]}">.*?</tr>', html[html.index('id="similarity"') :], re.DOTALL
        ).group()
        assert f">{row['max_iou_mean']:.3f}<" in similar
    assert "63.2" in html and "0123456789abcdef0123456789abcdef01234567 with uncommitted changes" in html
    assert "task.data.split_seed" in html and "2025-01-31 12:00 UTC" in html and "2.11.0" in html


def test_text_from_files_is_escaped(run, fast_figures):
    config = OmegaConf.load(run / "config.yaml")
    config.task.data.dataset = "<script>alert(1)</script>"
    OmegaConf.save(config, run / "config.yaml")
    html = write_page(run).read_text()
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)" in html and "outputs/a &amp; b" in html


def test_a_rebuilt_report_is_the_same_report(run, reported):
    write_page(RunDirectory(run))
    for path in sorted((reported / "report").rglob("*.*")):
        again = run / "report" / path.relative_to(reported / "report")
        if path.suffix != ".html":  # the page names output_dir, which differs
            assert again.read_bytes() == path.read_bytes(), path.name
    assert {path.suffix for path in (run / "report").rglob("*.*")} == {".html", ".md", ".csv", ".png", ".svg"}, (
        "a temporary file was left"
    )


def test_a_rebuilt_report_removes_figures_that_it_lacks(run, fast_figures):
    write_page(run)
    (run / "trajectories.npz").unlink()
    write_page(run)
    names = {path.stem for path in (run / "report" / "figures").iterdir()}
    assert names == FIGURES - {"reverse_diffusion"}


def test_no_network_is_used(run, monkeypatch, fast_figures):
    def refuse(*_):
        raise AssertionError("the report asked for a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert write_page(run).is_file()


def without_a_decision(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["verdict"]["comparisons"][0]["accuracy_is"]
    (run / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize(
    "damage, named, lost",
    [
        (
            lambda run: (run / "scores" / "gaussian.npz").write_bytes(b"PK\x03\x04 cut off"),
            "scores/gaussian.npz",
            set(),
        ),
        (lambda run: (run / "scores" / "finetuned.npz").unlink(), "scores/finetuned.npz", set()),
        (lambda run: np.savez(run / "scores" / "noised_0.05.npz", np.zeros(3)), "scores/noised_0.05.npz", set()),
        (lambda run: (run / "trajectories.npz").unlink(), "trajectories.npz", {"reverse_diffusion"}),
        (
            lambda run: np.savez(run / "trajectories.npz", timesteps_S=np.arange(3), accuracy_TS=np.zeros((2, 4))),
            "trajectories.npz",
            {"reverse_diffusion"},
        ),
        (
            lambda run: np.savez(run / "training_history.npz", history_ED=np.zeros((2, 5)), names=["a"], sizes=[4]),
            "training_history.npz",
            {"training_history"},
        ),
        (lambda run: (run / "config.yaml").write_text("task: [unclosed"), "config.yaml", set()),
        (lambda run: (run / "config.yaml").unlink(), "config.yaml", set()),
        (lambda run: (run / "provenance.json").write_text("{"), "provenance.json", set()),
        (lambda run: (run / "provenance.json").write_text("[1]"), "provenance.json", set()),
        (without_a_decision, "metrics.json", {"differences"}),
    ],
    ids=[
        "cut",
        "absent",
        "other arrays",
        "no trajectories",
        "other shapes",
        "other sizes",
        "bad yaml",
        "no config",
        "bad json",
        "no object",
        "bad verdict",
    ],
)
def test_a_missing_or_damaged_file_is_named_and_the_rest_is_reported(run, fast_figures, caplog, damage, named, lost):
    damage(run)
    html = write_page(run).read_text()
    problems = problems_on(html)
    assert named in problems and named in caplog.text and problems.count("<li>") == 1
    assert figures_on(html) == FIGURES - lost
    assert SENTENCES[0] in html and "89" in html


def test_scores_of_another_run_are_named_and_left_out(run, fast_figures):
    alien = ScoreTable(
        "gaussian",
        np.zeros((5, 7), np.float32),
        {"test": Scores(np.zeros(5), np.zeros(5), np.zeros((5, 3), bool))},
        "id",
        1.0,
    )
    alien.save(run / "scores" / "gaussian.npz")
    html = write_page(run).read_text()
    assert "(7, 3)" in problems_on(html) and "gaussian" in problems_on(html) and figures_on(html) == FIGURES


def test_without_scores_of_the_originals_the_tables_and_figures_without_them_remain(run, fast_figures):
    (run / "scores" / "original.npz").unlink()
    html = write_page(run).read_text()
    assert figures_on(html) == {
        "differences",
        "pca_weights",
        "tsne_weights",
        "pca_latents",
        "tsne_latents",
        "reverse_diffusion",
        "training_history",
        *WORTH,
    }
    assert "scores/original.npz" in problems_on(html) and SENTENCES[0] in html


def test_without_any_scores_the_page_is_still_written(run, fast_figures):
    for path in (run / "scores").iterdir():
        path.unlink()
    html = write_page(run).read_text()
    assert figures_on(html) == {"differences", "reverse_diffusion", "training_history", *WORTH}
    assert problems_on(html).count("scores/") == 12


def test_a_task_without_wrong_images_has_no_similarity_figures_and_no_problem(run, fast_figures):
    for path in (run / "scores").iterdir():
        table = ScoreTable.load(path)
        scores = table.scores["test"]
        ScoreTable(
            table.source, table.vectors_MD, {"test": Scores(scores.accuracy_M, scores.loss_M, None)}, "id", 1.0
        ).save(path)
    html = write_page(run).read_text()
    assert figures_on(html) == FIGURES - {"accuracy_vs_max_iou", "max_iou", "iou_matrix", "pca_latents", "tsne_latents"}
    assert PROBLEMS not in html


def test_metrics_of_an_older_version_are_reported_without_what_they_lack(run, fast_figures):
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("selection", "combination", "verdict", "seconds", "worth"):
        del metrics[name]
    metrics["table"] = [
        {key: value for key, value in row.items() if key not in ("ece_mean", "accuracy_interval", "near_copies")}
        for row in metrics["table"]
    ]
    (run / "metrics.json").write_text(json.dumps(metrics))
    html = write_page(run).read_text()
    assert not any(f'id="{name}"' in html for name in ("details", "use", "differences")) and 'class="keys"' not in html
    assert "ECE" not in html and "95% interval" not in html


def test_one_original_and_one_generated_model_are_enough(run, fast_figures):
    for source in ("original", "p_diff"):
        table = ScoreTable.load(run / "scores" / f"{source}.npz")
        test = table.scores["test"]
        one = Scores(test.accuracy_M[:1], test.loss_M[:1], test.wrong_MN[:1])
        ScoreTable(source, table.vectors_MD[:1], {"test": one}, "id", 1.0, table.latents_ML[:1]).save(
            run / "scores" / f"{source}.npz"
        )
    html = write_page(run).read_text()
    assert PROBLEMS not in html and "accuracy_vs_max_iou" in figures_on(html) and "min_l2" not in figures_on(html)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '{"table": [], "paper_protocol": {}, "held_out_protocol": {}}',
        '{"table": [{}]}',
        '{"table": [{"source": "original"}], "paper_protocol": {}, "held_out_protocol": {}}',
    ],
)
def test_invalid_metrics_are_an_error_and_leave_no_page(run, content):
    (run / "metrics.json").unlink()
    if content is not None:
        (run / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json"):
        write_page(run)
    assert not (run / "report").exists()


def test_published_numbers_stand_beside_ours_where_there_are_any(run, fast_figures):
    assert 'id="published"' not in write_page(run).read_text()  # The paper has no numbers for digits.
    config = OmegaConf.load(run / "config.yaml")
    config.task.data.dataset = "cifar100"
    OmegaConf.save(config, run / "config.yaml")
    html = write_page(run).read_text()
    published = html[html.index('id="published"') :]
    assert all(number in published for number in ("77.40", "77.70", "77.90", "77.24", "77.55", "0.848"))


def test_a_folder_that_cannot_be_written_to_is_an_error(run, fast_figures):
    (run / "report").write_text("a file")
    with pytest.raises(UserError, match="report"):
        write_page(run)


def test_captions_tell_how_to_read_a_figure_and_what_would_be_good_or_bad(reported):
    html = (reported / "report" / "index.html").read_text()
    captions = re.findall(r"<figcaption><p>(.*?)</p><p><b>Good:</b> (.*?)</p><p><b>Bad:</b> (.*?) <code>", html)
    assert len(captions) == len(FIGURES)
    assert all(len(part) > 20 and part.endswith(".") for caption in captions for part in caption)


def test_markdown_and_csv_hold_the_numbers_of_the_page(reported: Path):
    metrics = json.loads((reported / "metrics.json").read_text())
    text, csv = (
        (reported / "report" / "table.md").read_text(),
        (reported / "report" / "scores.csv").read_text().splitlines(),
    )
    assert all(sentence in text for sentence in SENTENCES) and "greedy soup" in text and "val accuracy" in text
    assert len(csv) == 1 + len(metrics["table"])
    row = dict(zip(csv[0].split(","), csv[2].split(","), strict=True))
    (ours,) = (row for row in metrics["table"] if row["source"] == "p_diff")
    assert (
        row["source"] == "p_diff"
        and float(row["accuracy_mean"]) == ours["accuracy_mean"]
        and float(row["accuracy_interval_low"]) == ours["accuracy_interval"][0]
    )
