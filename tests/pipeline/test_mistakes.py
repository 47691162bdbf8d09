"""A user's mistake ends in one sentence that names the value, and loses nothing."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

CHECKPOINTS = "param_data/digits_test_resnet/checkpoints.safetensors"


def rewritten(workplace, change):
    """A copy of the checkpoints file with changed tensors, as a path."""
    path = workplace.path / "changed.safetensors"
    with safe_open(workplace.path / CHECKPOINTS, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(workplace.path / CHECKPOINTS)
    change(tensors)
    save_file(tensors, path, metadata)
    return f"task.param.path={path}"


@pytest.mark.parametrize(
    "script, override, words",
    [
        ("task_training.py", "task.data.dataset=digit", ["'digit'", "digits"]),
        ("task_training.py", "task.model.name=resnet81", ["'resnet81'", "resnet18"]),
        ("task_training.py", "task.param.k=1", ["task.param.k=1", "at least 2"]),
        ("task_training.py", "task.param.k=9", ["9", "holds 6"]),
        ("task_training.py", "task.epochs=2", ["task.epochs=1 there, 2 here", "task.param.path="]),
        ("task_training.py", "seed=1", ["task.seed=42 there, 1 here"]),
        ("task_training.py", "trainer.precision=32-true", ["trainer.precision=tf32 there, 32-true here"]),
        (
            "task_training.py",
            "trainer.precision=bf16-true",
            ["trainer.precision=bf16-true", "tf32, 32-true, bf16-mixed, 16-mixed"],
        ),
        ("train_p_diff.py", "task.param.k=7", ["task.param.k=7", "holds 6"]),
        ("train_p_diff.py", "task.param.k=1", ["task.param.k=1", "at least 2"]),
        ("train_p_diff.py", "task.param.path=nowhere.safetensors", ["nowhere.safetensors", "task_training.py"]),
        ("train_p_diff.py", "scoring.precision=tf32", ["scoring.precision=tf32 needs a GPU", "scoring.precision=fp32"]),
        ("task_training.py", "scoring.precision=fp8", ["scoring.precision=fp8: expected one of fp32, tf32, bf16"]),
        ("task_training.py", "trainer.deterministic=perhaps", ["trainer.deterministic=perhaps", "true, false or warn"]),
        ("train_p_diff.py", "mode=tset", ["mode=tset", "train, test, generate"]),
        ("train_p_diff.py", "system.batch_size=1", ["batch_size=1"]),
        ("train_p_diff.py", "system.autoencoder.kernel_size=4", ["kernel_size=4", "odd"]),
        ("train_p_diff.py", "system.denoiser.hidden_dim=wide", ["MLPDenoiser"]),
        ("train_p_diff.py", "system.sampler.num_steps=2000", ["num_steps=2000", "1000"]),
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
    error = workplace.run(script, *overrides).error
    assert isinstance(error, str) and error.startswith("error: ") and "\n" not in error
    for word in words:
        assert word in error
    assert workplace.metrics() == before


def test_a_misspelt_override_is_refused(workplace, capsys):
    assert workplace.run("train_p_diff.py", "task.parm.k=5").error == 1
    shown = capsys.readouterr().err
    assert "parm" in shown and "Traceback" not in shown


def test_testing_with_other_settings_than_trained_is_refused(workplace):
    error = workplace.run("train_p_diff.py", "mode=test", "task.param.k=4").error
    assert "task.param.k=6 there, 4 here" in error


def test_testing_without_a_generator_says_how_to_get_one(workplace):
    error = workplace.run("train_p_diff.py", "mode=test", "output_dir=outputs/empty").error
    assert "outputs/empty" in error and "mode=train" in error
    assert not (workplace.path / "outputs/empty").exists()


def test_a_truncated_checkpoints_file_is_named(workplace):
    path = workplace.path / "truncated.safetensors"
    path.write_bytes((workplace.path / CHECKPOINTS).read_bytes()[:-1000])
    error = workplace.run("train_p_diff.py", f"task.param.path={path}").error
    assert str(path) in error and "truncated" in error


def test_a_foreign_file_is_named(workplace):
    path = workplace.path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    error = workplace.run("train_p_diff.py", f"task.param.path={path}").error
    assert str(path) in error and "not a p-diff checkpoints file" in error


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named_with_its_row(workplace, value):
    def poison(tensors):
        tensors["vectors"][3, 0] = value

    error = workplace.run("train_p_diff.py", rewritten(workplace, poison)).error
    assert "checkpoint 3" in error and str(value) in error and ".weight" in error


def test_vectors_of_the_wrong_length_are_refused(workplace):
    def cut(tensors):
        tensors["vectors"] = tensors["vectors"][:, :-5].contiguous()

    error = workplace.run("train_p_diff.py", rewritten(workplace, cut)).error
    assert "379" in error and "384" in error


def test_a_network_that_does_not_fit_is_refused(workplace):
    def shrink(tensors):
        tensors["network/fc.weight"] = tensors["network/fc.weight"][:4].contiguous()

    error = workplace.run("train_p_diff.py", rewritten(workplace, shrink), "output_dir=outputs/wrong").error
    assert "fc.weight" in error


def test_a_generator_of_other_checkpoints_is_refused(workplace):
    def change(tensors):
        tensors["vectors"] += 1

    error = workplace.run("train_p_diff.py", "mode=generate", rewritten(workplace, change)).error
    assert "was not trained on the checkpoints" in error
