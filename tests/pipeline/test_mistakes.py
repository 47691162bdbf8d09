"""Tests that a user's mistake ends in one line that names the value, and that no file is lost."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.pipeline.conftest import assert_names

CHECKPOINTS = "param_data/digits_test_resnet/checkpoints.safetensors"


def rewritten(workplace, change):
    """Write a copy of the checkpoints file with changed tensors and no hashes; return the override that names it."""
    path = workplace.path / "changed.safetensors"
    with safe_open(workplace.path / CHECKPOINTS, framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name not in {"hashes", "sha256"}}
    tensors = load_file(workplace.path / CHECKPOINTS)
    change(tensors)
    save_file(tensors, path, metadata)
    return f"task.param.path={path}"


@pytest.mark.parametrize(
    "script, override, words",
    [
        ("task_training.py", "task.data.dataset=digit", ["digit", "digits"]),
        ("task_training.py", "task.model.name=resnet81", ["resnet81", "resnet18"]),
        ("task_training.py", "task.param.k=1", ["task.param.k=1", 2]),
        ("task_training.py", "task.param.k=9", ["task.param.k=9", 6]),
        ("task_training.py", "task.epochs=2", ["task.epochs", 1, 2, "task.param.path="]),
        ("task_training.py", "seed=1", ["task.seed", 42, 1]),
        ("task_training.py", "trainer.precision=32-true", ["trainer.precision", "tf32", "32-true"]),
        (
            "task_training.py",
            "trainer.precision=bf16-true",
            ["trainer.precision=bf16-true", "tf32", "32-true", "bf16-mixed", "16-mixed"],
        ),
        ("train_p_diff.py", "task.param.k=7", ["task.param.k=7", 6]),
        ("train_p_diff.py", "task.param.k=1", ["task.param.k=1", 2]),
        ("train_p_diff.py", "task.param.path=nowhere.safetensors", ["nowhere.safetensors", "task_training.py"]),
        ("train_p_diff.py", "scoring.precision=tf32", ["scoring.precision=tf32", "GPU", "scoring.precision=fp32"]),
        ("task_training.py", "scoring.precision=fp8", ["scoring.precision=fp8", "fp32", "tf32", "bf16"]),
        (
            "task_training.py",
            "trainer.deterministic=perhaps",
            ["trainer.deterministic=perhaps", "true", "false", "warn"],
        ),
        ("train_p_diff.py", "mode=tset", ["mode=tset", "train", "test", "generate"]),
        ("train_p_diff.py", "evaluation.ood=svnh", ["evaluation.ood=svnh", "svhn"]),
        ("train_p_diff.py", "evaluation.ood=[digits]", ["evaluation.ood=digits"]),
        ("train_p_diff.py", "system.batch_size=1", ["batch_size=1"]),
        ("train_p_diff.py", "system.autoencoder.kernel_size=4", ["kernel_size=4"]),
        ("train_p_diff.py", "system.denoiser.hidden_dim=wide", ["MLPDenoiser"]),
        ("train_p_diff.py", "system.sampler.num_steps=2000", ["num_steps=2000", 1000]),
        ("train_p_diff.py", "output_dir=/dev/null/run", ["/dev/null/run"]),
        pytest.param(
            "train_p_diff.py",
            "trainer=gpu",
            ["trainer.accelerator=gpu", "trainer=cpu"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_a_wrong_value_is_named(workplace, script, override, words):
    before = workplace.metrics()
    overrides = [override] if override.startswith(("output_dir", "mode")) else [override, "output_dir=outputs/wrong"]
    assert_names(workplace.refuse(script, *overrides), *words)
    assert workplace.metrics() == before


def test_a_misspelled_override_is_refused(workplace, capsys):
    error = workplace.run("train_p_diff.py", "task.parm.k=5").error
    shown = f"{error}\n{capsys.readouterr().err}"
    assert error != 0 and "parm" in shown and "Traceback" not in shown


def test_testing_with_other_settings_than_trained_is_refused(workplace):
    assert_names(workplace.refuse("train_p_diff.py", "mode=test", "task.param.k=4"), "task.param.k", 6, 4)


def test_testing_without_a_generator_says_how_to_get_one(workplace):
    error = workplace.refuse("train_p_diff.py", "mode=test", "output_dir=outputs/empty")
    assert_names(error, "outputs/empty", "mode=train")
    assert not (workplace.path / "outputs/empty").exists()


def test_a_truncated_checkpoints_file_is_named(workplace):
    path = workplace.path / "cut.safetensors"
    path.write_bytes((workplace.path / CHECKPOINTS).read_bytes()[:-1000])
    assert_names(workplace.refuse("train_p_diff.py", f"task.param.path={path}"), path)


def test_a_foreign_file_is_named(workplace):
    path = workplace.path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert_names(workplace.refuse("train_p_diff.py", f"task.param.path={path}"), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named_with_its_row(workplace, value):
    def poison(tensors):
        tensors["vectors"][3, 0] = value

    assert_names(workplace.refuse("train_p_diff.py", rewritten(workplace, poison)), 3, value, ".weight")


def test_vectors_of_the_wrong_length_are_refused(workplace):
    def cut(tensors):
        tensors["vectors"] = tensors["vectors"][:, :-5].contiguous()

    assert_names(workplace.refuse("train_p_diff.py", rewritten(workplace, cut)), 379, 384)


def test_a_network_that_does_not_fit_is_refused(workplace):
    def shrink(tensors):
        tensors["network/fc.weight"] = tensors["network/fc.weight"][:4].contiguous()

    error = workplace.refuse("train_p_diff.py", rewritten(workplace, shrink), "output_dir=outputs/wrong")
    assert_names(error, "fc.weight")


def test_a_generator_of_other_checkpoints_is_refused(workplace):
    def change(tensors):
        tensors["vectors"] += 1

    error = workplace.refuse("train_p_diff.py", "mode=generate", rewritten(workplace, change))
    assert_names(error, "generator.safetensors", "changed.safetensors")


@pytest.mark.parametrize(
    "override, named",
    [
        ("system.autoencoder.kernel_size=6", "kernel_size=6"),
        ("system.schedule.beta_start=0.5", "beta_start=0.5"),
        ("+system.sampler.scheduler.clip_sample_rate=1", "clip_sample_rate"),
        ("task.score_with=nowhere:task", "task.score_with=nowhere:task"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_the_run_is_moved_or_anything_is_trained(
    workplace, override, named, capsys
):
    before = sorted(path.name for path in (workplace.path / "outputs/digits_test_resnet").iterdir())
    assert named in workplace.refuse("train_p_diff.py", override)
    assert sorted(path.name for path in (workplace.path / "outputs/digits_test_resnet").iterdir()) == before
    assert "autoencoder:" not in capsys.readouterr().err
