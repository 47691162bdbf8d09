"""The numbers of the paper and its logs are found for their own setting and for no other."""

from pathlib import Path

import pytest

from core.report.published import (
    build_published_table,
    find_log_rows,
    find_paper_accuracies,
    normalize_name,
    read_rows,
)
from core.report.run_files import RunFiles


def made(dataset, model, subset="last_norms", k=300) -> RunFiles:
    config = {"task": {"data": {"dataset": dataset}, "model": {"name": model}, "param": {"subset": subset, "k": k}}}
    row = {"n": 200, "accuracy_mean": 0.5}
    metrics = {
        "table": [{"source": "original"} | row, {"source": "p_diff"} | row],
        "paper_protocol": {"original": 0.6, "p_diff": 0.61},
    }
    return RunFiles(Path("run"), metrics, config=config)


@pytest.mark.parametrize(
    "ours, theirs",
    [("cifar100", "CIFAR-100"), ("pets", "Oxford-IIIT Pet"), ("imagenet", "ImageNet-1K"),
     ("flowers102", "Flowers-102"), ("stl10", "STL-10"), ("mnist", "MNIST"),
     ("vit_tiny_patch16_224", "ViT-Tiny"), ("vit_base_patch16_224.augreg_in21k", "ViT-Base"),
     ("resnet18", "ResNet-18"), ("resnet50.a1_in1k", "ResNet-50"),
     ("convnext_tiny", "ConvNeXt-Tiny"), ("convnext_base", "ConvNeXt-Base"), ("convnet_mini", "ConvNet-mini")],
)  # fmt: skip
def test_names_of_the_same_thing_match(ours, theirs):
    assert normalize_name(ours) == normalize_name(theirs)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ("cifar10", "CIFAR-100"),
        ("resnet18", "ResNet-50"),
        ("vit_tiny_patch16_224", "ViT-Base"),
        ("convnext_tiny", "ConvNeXt-mini"),
    ],
)
def test_names_of_different_things_do_not_match(ours, theirs):
    assert normalize_name(ours) != normalize_name(theirs)


def test_the_files_hold_the_whole_tables():
    paper, logs = read_rows("paper.csv"), read_rows("logs.csv")
    assert len(paper) == 36 + 6 + 10 and sum(row["category"] == "main" for row in logs) == 36
    assert all(30 < float(row[source]) < 100 for row in paper for source in ("original", "ensemble", "p_diff"))
    assert {
        (normalize_name(row["dataset"]), normalize_name(row["architecture"]))
        for row in logs
        if row["category"] in ("main", "full")
    } <= {(normalize_name(row["dataset"]), normalize_name(row["architecture"])) for row in paper}


@pytest.mark.parametrize(
    "run, numbers",
    [
        (made("cifar100", "resnet18"), [0.774, 0.777, 0.779]),
        (made("food101", "convnext_base"), [0.928, 0.929, 0.930]),
        (made("mnist", "vit_tiny_patch16_224"), [0.995, 0.995, 0.995]),
        (made("stl10", "mlp_mini", subset="all"), [0.35, 0.35, 0.352]),
    ],
)
def test_the_papers_numbers_belong_to_the_setting(run, numbers):
    (row,) = find_paper_accuracies(run).values()
    assert list(row.values()) == pytest.approx(numbers)


def test_another_subset_or_data_set_has_no_published_number():
    assert not find_paper_accuracies(made("cifar100", "resnet18", subset="all"))
    assert not find_paper_accuracies(made("cifar100", "resnet18", subset=["layer4.*"]))
    assert (
        build_published_table(made("digits", "resnet18")) is None
        and build_published_table(RunFiles(Path("run"), {})) is None
    )


def test_logs_of_another_k_are_shown_only_for_that_k():
    for k in (50, 300):
        assert list(find_log_rows(made("cifar100", "resnet18", k=k))) == ["its logs, cifar100_resnet18"]
    assert list(find_log_rows(made("cifar100", "resnet18", k=200))) == [
        "its logs, cifar100_resnet18",
        "its logs, numberckpt_200",
    ]


def test_our_numbers_come_first_and_unpublished_ones_are_dashes():
    table = build_published_table(made("cifar100", "resnet18"))
    ours, paper, logs = ([cell.text for cell in row] for row in table.rows)
    assert [column.label for column in table.columns][:6] == [
        "from",
        "K",
        "M",
        "original best %",
        "ensemble %",
        "p_diff best %",
    ]
    assert ours == ["this run", "200", "200", "60.00", "–", "61.00", "50.00", "50.00", "–"]
    assert paper == ["paper, v3 (2024-12)", "–", "–", "77.40", "77.70", "77.90", "–", "–", "–"]
    assert logs == ["its logs, cifar100_resnet18", "300", "201", "77.15", "–", "77.55", "76.72", "77.24", "0.848"]
