"""Overrides that Hydra refuses end in one line that names the override and the possible values."""

import re
import sys

import pytest

from core.command_line.composition_error import CONFIGS
from core.command_line.entry_point import entry_point

MODELS = sorted(path.stem for path in (CONFIGS / "task/model").glob("*.yaml"))


def refusal(monkeypatch, capsys, *words: str) -> str:
    """Return the line with which a command given these words ends before `main` is called."""
    monkeypatch.setattr(sys, "argv", ["task_training.py", *words])
    with pytest.raises(SystemExit) as stop:
        entry_point(lambda cfg: pytest.fail("main was called"))()
    sentence = stop.value.code  # Python prints a text to stderr and exits with status 1
    assert isinstance(sentence, str) and sentence.startswith("error: ") and "\n" not in sentence
    printed = capsys.readouterr()
    assert not printed.out and not printed.err
    return sentence


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # Hydra writes multirun.yaml into the current folder
    return lambda *words: refusal(monkeypatch, capsys, *words)


@pytest.mark.parametrize("word", ["task/model=foo", "task.model=foo", "task/model=foo,vit_tiny"])
def test_an_unknown_choice_is_named_with_every_choice_of_its_group(refuse, word):
    multirun = ["-m"] if "," in word else []
    assert refuse(*multirun, word) == (
        f"error: task/model=foo is unknown. Set task/model to one of {', '.join(MODELS)}"
    )


@pytest.mark.parametrize(
    "word, choices",
    [
        ("trainer=foo", "auto, cpu, ddp, gpu"),
        ("system/sampler=foo", "ddim, ddpm, dpm_solver"),
        ("system.sampler=foo", "ddim, ddpm, dpm_solver"),
        ("logger=null", "csv, none, tensorboard"),
        ("trainer=5", "auto, cpu, ddp, gpu"),
        ("experiment=[paper,foo]", "ablation, "),
    ],
)
def test_every_group_names_its_choices(refuse, word, choices):
    group = word.partition("=")[0].replace("system.", "system/")
    sentence = refuse(word)
    assert f" {group}=" in sentence and f"Set {group} to one of {choices}" in sentence


def test_an_unknown_setting_is_named_with_the_settings_of_its_section(refuse):
    assert refuse("task.epoch=3").startswith("error: task.epoch=3 is unknown. Use one of the settings of task: ")
    assert "task.epoch=1,2" in refuse("-m", "task.epoch=1,2")


@pytest.mark.parametrize(
    "word, known",
    [
        ("sed=1", ["seed", "task", "output_dir"]),
        ("task.epoch=3", ["epochs", "batch_size"]),
        ("task.modl=vit_tiny", ["model"]),
        ("task.a.b=2", ["epochs"]),
        ("task/modl=vit_tiny", ["task/model", "system/sampler"]),
        ("trainer.max_time=1", ["accelerator", "+trainer.max_time=1", "make_trainer"]),
        ("task.model.name.x=3", ["task.model.name=VALUE"]),
    ],
)
def test_the_known_names_are_listed_beside_the_unknown_one(refuse, word, known):
    sentence = refuse(word)
    assert word in sentence and all(name in sentence for name in known)
    assert "_target_" not in sentence and "hydra" not in sentence


@pytest.mark.parametrize("word", ["foo", "task.epochs=[1", "task.param.path=a=b"])
def test_a_word_that_is_no_override_is_named_with_the_form_of_one(refuse, word):
    sentence = refuse(word)
    assert f" {word}. " in sentence and "NAME=VALUE" in sentence


@pytest.mark.parametrize("word", ["task.epochs=1,2", "task.epochs=choice(1,2)"])
def test_several_values_need_a_multirun(refuse, word):
    sentence = refuse(word)
    assert word in sentence and "-m" in sentence.split()


@pytest.mark.parametrize(
    "words, named",
    [
        (["trainer@x=foo"], "trainer@x"),
        (["+task.epochs=3"], "task.epochs"),
        (["~task.foo"], "task.foo"),
        (["--config-name=foo"], "foo"),
        (["hydra.verbose=${foo}"], "hydra.verbose"),
        (["--resolve"], "--resolve"),
    ],
)
def test_every_other_refusal_of_hydra_becomes_one_line_without_search_paths(refuse, words, named):
    sentence = refuse(*words)
    assert named in sentence and "search path:" not in sentence and "file://" not in sentence


def test_a_refusal_is_one_line_also_after_a_successful_command(monkeypatch, tmp_path):
    command = entry_point(lambda cfg: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["task_training.py", "trainer=cpu", "hydra/job_logging=none"])
    command()
    monkeypatch.setattr(sys, "argv", ["task_training.py", "trainer=5"])
    with pytest.raises(SystemExit, match="trainer=5"):
        command()


def test_an_error_of_main_keeps_its_traceback(monkeypatch, tmp_path):
    def main(cfg):
        raise ValueError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["task_training.py", "trainer=cpu", "hydra/job_logging=none"])
    with pytest.raises(ValueError, match=r"^a bug$"):
        entry_point(main)()


def test_files_that_others_build_on_are_no_choices(refuse):
    error = refuse("task=cifar11")
    assert "cifar100" in error and not {"common", "photographs"} & set(re.findall(r"\w+", error))
