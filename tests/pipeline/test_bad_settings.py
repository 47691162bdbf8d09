"""Bad settings, paths and files: each ends in one sentence that names it, before anything is trained or written."""

import copy
import importlib
import pickle
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import core.training.fit_generator
import task_training
import tasks.training.train_networks
from core.command_line.run_command import run_command
from core.runtime.provenance import ROOT
from tests.pipeline.conftest import TINY, assert_names, assert_one_line

SETTINGS = [  # an override, and what the sentence has to name besides it
    # numbers of another type or out of their range
    ("seed=abc", []),
    ("seed=1.5", []),
    ("seed=null", []),
    ("task.epochs=-1", ["at least 0"]),
    ("task.epochs=1.5", []),
    ("task.batch_size=0", ["at least 1"]),
    ("task.param.k=1", ["at least 2"]),
    ("task.param.k=two", []),
    ("task.param.count=0", []),
    ("task.optimizer.lr=-1", []),
    ("task.optimizer.lr=fast", []),
    ("task.optimizer.lr=nan", []),
    ("task.optimizer.lr=inf", []),
    ("task.data.val_fraction=0", []),
    ("task.data.val_fraction=1", []),
    ("task.data.split_seed=-1", []),
    ("task.data.image_size=0", []),
    ("task.data.num_workers=-1", ["auto"]),
    ("task.gradient_clip=0", []),
    ("task.warmup_steps=0", []),
    ("task.collect.every=0", []),
    ("task.collect.every=sometimes", ["spread"]),
    ("task.collect.batch_size=0", []),
    ("task.collect.held_out=-1", []),
    ("generation.num_models=0", []),
    ("generation.batch_size=0", []),
    ("generation.num_exported=-1", []),
    ("evaluation.num_baselines=0", []),
    ("evaluation.noise=[-1]", []),
    ("evaluation.noise=x", []),
    ("evaluation.noise=[nan]", []),
    ("evaluation.average_of=0", []),
    ("evaluation.finetune_steps=[0]", []),
    ("evaluation.soup_candidates=0", []),
    ("evaluation.num_trajectories=0", []),
    ("evaluation.deep_ensemble=-1", []),
    ("scoring.batch_size=0", ["auto"]),
    ("scoring.cache_bytes=-1", ["auto"]),
    ("system.batch_size=1", []),
    ("system.autoencoder_steps=0", []),
    ("system.ema_decay=2", ["null"]),
    ("system.schedule.num_timesteps=0", []),
    ("system.sampler.num_steps=0", []),
    # texts, choices and sections
    ("mode=tset", ["train", "test", "generate"]),
    ("mode=null", ["train"]),
    ("output_dir=''", []),
    ("output_dir=null", []),
    ("task.data.root=null", []),
    ("task.data.dataset=5", []),
    ("task.data.dataset=mnistt", ["mnist"]),
    ("task.data.verify=perhaps", ["true", "false"]),
    ("task.param.path=null", []),
    ("task.param.subset=5", []),
    ("task.param.subset=[5]", []),
    ("task.param.subset=[]", ["last_norms", "all"]),
    ("task.param.subset=last_norm", ["last_norms", "all"]),
    ("task.param.subset=[nothing.*]", ["nothing.*", "fc.weight"]),
    ("task.model.name=''", []),
    ("task.model.name=resnet81", ["resnet18"]),
    ("task.model.name=nowhere:network", ["nowhere"]),
    ("task.model.pretrained=maybe", ["true", "false"]),
    ("task.model.options=5", []),
    ("task.optimizer=null", []),
    ("task.scheduler=5", []),
    ("task.collect=null", []),
    ("task.collect.kind=foo", ["steps", "independent"]),
    ("task.collect.kind=independent", ["task.collect=independent"]),
    ("task=5", []),
    ("system=5", []),
    ("evaluation=17", []),
    ("scoring=17", []),
    ("generation=1", []),
    ("system.sampler.scheduler=5", []),
    ("task.data.split_seed=100000000000", []),
    ("evaluation=null", []),
    ("generation=5", []),
    ("evaluation.ood=[svnh]", ["svnh", "svhn"]),
    ("evaluation.ood=5", []),
    ("scoring.precision=fp8", ["fp32", "bf16"]),
    ("system.normalization=foo", ["per_tensor"]),
    ("system.latent_normalization=foo", ["per_coordinate"]),
    ("system.learning_rate_schedule=foo", ["cosine"]),
    ("system.compile=foo", ["null", "reduce-overhead"]),
    ("trainer.precision=64", ["tf32"]),
    ("trainer.devices=0", []),
    ("trainer.deterministic=perhaps", ["warn"]),
    ("trainer.accelerator=tpu", ["gpu"]),
    # names that no code reads, with the nearest known one
    ("+seeds=1", ["seed"]),
    ("+task.epoch=3", ["epochs"]),
    ("+task.data.roots=x", ["root"]),
    ("+task.model.names=x", ["name"]),
    ("+task.param.paths=x", ["path"]),
    ("+task.collect.everry=2", ["every"]),
    ("+generation.num_model=1", ["num_models"]),
    ("+evaluation.noises=[1]", ["noise"]),
    ("+scoring.batchsize=1", ["batch_size"]),
    ("+system.batchsize=1", ["batch_size"]),
    ("+system.sampler.num_step=2", ["num_steps"]),
    ("+system.schedule.beta=2", ["system.schedule"]),
    ("+system.autoencoder.latent=2", ["ConvAutoencoder", "latent"]),
    ("+trainer.max_step=2", ["max_steps"]),
    # classes that do not exist, do not fit or must not be named
    ("task.optimizer._target_=torch.optim.Adaam", ["task.optimizer"]),
    ("+task.optimizer.learning_rate=1", ["task.optimizer", "learning_rate"]),
    ("+task.collect.optimizer.rate=1", ["task.collect.optimizer", "rate"]),
    ("+system.denoiser_optimizer.momentum=1", ["system.denoiser_optimizer", "momentum"]),
    ("logger._target_=nowhere.Logger", ["logger._target_=nowhere.Logger"]),
    ("system.autoencoder._target_=os.system", ["core.networks"]),
    ("system.sampler.scheduler._target_=os.system", ["diffusers"]),
    ("system.autoencoder._target_=core.networks.autoencoder.Foo", ["Foo"]),
    ("system.autoencoder.kernel_size=4", ["kernel_size=4"]),
    ("system.autoencoder.channels=[]", ["channels=[]"]),
    ("system.autoencoder.latent_dim=abc", ["ConvAutoencoder"]),
    ("system.denoiser.hidden_dim=7", ["hidden_dim=7"]),
    ("system.denoiser.num_blocks=-1", ["num_blocks=-1"]),
    # settings that contradict each other
    ("system.sampler.num_steps=2000", [1000]),
    ("system.schedule.num_timesteps=10", ["system.sampler.num_steps"]),
    ("system.schedule.beta_start=0.5", ["beta_start=0.5", "beta_end=0.02"]),
    ("system.schedule.beta_end=high", ["system.schedule"]),
    ("task.scheduler.T_max=0", ["task.scheduler"]),
    ("evaluation.deep_ensemble=1", ["at least 2"]),
    ("evaluation.ood=[digits]", ["evaluation.ood=digits"]),
    ("task.data.mean=[0.5]", ["task.data.std"]),
    ("task.data.std=[0]", []),
    ("task.data.mean=[nan]", []),
    ("task.score_with=5", []),
    ("system.schedule.num_timesteps=1000000000", []),
    ("trainer.devices=2", ["trainer=ddp"]),
    ("trainer.precision=16-mixed", ["trainer.precision=16-mixed"]),
]


@cache
def compose_tiny() -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("base", overrides=TINY)


def override(word: str) -> DictConfig:
    """Return the tiny configuration with one override, which is read as Hydra reads it, but not composed anew."""
    cfg, parsed = copy.deepcopy(compose_tiny()), OverridesParser.create().parse_override(word)
    OmegaConf.update(cfg, parsed.key_or_group, parsed.value(), merge=False, force_add=bool(parsed.is_add()))
    return cfg


@pytest.fixture
def no_training(monkeypatch):
    for module in (tasks.training.train_networks, core.training.fit_generator):
        monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("a training began"))


@pytest.mark.usefixtures("few_digits", "no_training")
@pytest.mark.parametrize("word, named", SETTINGS, ids=[word for word, _ in SETTINGS])
def test_a_bad_setting_of_either_command_ends_in_one_sentence_before_anything_is_trained(
    word, named, empty, monkeypatch
):
    monkeypatch.chdir(empty.path)
    with pytest.raises(SystemExit) as stop:
        task_training.main(override(word))
    shown = (
        [] if named and word.startswith(("+", "system.", "logger", "task.scheduler", "task.optimizer._")) else [word]
    )
    assert_names(assert_one_line(stop.value.code), *([] if named else shown), *named)
    assert not list(empty.path.iterdir())


class Trap:
    """An object whose pickle would make a file when it is read by a program that runs code from pickles."""

    def __reduce__(self):
        return Path("sprung").touch, ()


def write_trap(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Trap()))


def write_archive_trap(path: Path) -> None:
    """Write what torch.save makes of an object that runs code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": Trap()}, path)


RUN = "outputs/digits_test_resnet/ae_ddpm"
CHECKPOINTS = "param_data/digits_test_resnet/checkpoints.safetensors"
FILES = [  # the content of a file, the overrides that lead to it, and what the sentence has to name
    (lambda path: path.write_text("<html>404</html>"), ["task.param.path={file}"], ["damaged"]),
    (lambda path: path.touch(), ["task.param.path={file}"], ["damaged"]),
    (lambda path: path.mkdir(), ["task.param.path={file}"], ["not found"]),
    (write_trap, ["task.param.path={file}"], ["damaged"]),
    (write_archive_trap, ["task.param.path={file}"], ["damaged"]),
    (lambda path: None, ["task.param.path={file}"], ["not found", "task_training.py"]),
    (lambda path: path.write_text("x"), ["output_dir={file}"], ["is a file"]),
    (lambda path: path.write_text("x"), ["output_dir={file}/run"], ["cannot write"]),
    (lambda path: path.mkdir(), ["output_dir={file}", "mode=test"], ["mode=train"]),
    (lambda path: None, ["output_dir=/proc/{file}"], ["/proc"]),
]


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("make, overrides, named", FILES)
def test_a_path_or_file_that_cannot_be_used_ends_in_one_sentence_and_runs_no_code(workplace, make, overrides, named):
    file = workplace.path / "planted.bin"
    make(file)
    try:
        words = [word.format(file=file.name) for word in overrides]
        assert_names(workplace.refuse("train_p_diff.py", *words), file.name, *named)
        assert not (workplace.path / "sprung").exists()
    finally:
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "planted, plant",
    [
        (f"{RUN}/generator.safetensors", write_trap),
        (f"{RUN}/settings.json", write_trap),
        (f"{RUN}/provenance.json", write_trap),
        (CHECKPOINTS, write_archive_trap),
    ],
)
def test_a_hostile_file_in_a_run_is_refused_by_name_and_runs_no_code(workplace, planted, plant):
    path = workplace.path / planted
    whole = path.read_bytes()
    plant(path)
    try:
        assert_names(workplace.refuse("train_p_diff.py"), path.name)
        assert not (workplace.path / "sprung").exists()
    finally:
        path.write_bytes(whole)


SCRIPTS = [  # a script, its arguments, and what the sentence has to name
    ("scripts.make_report", ["nowhere"], ["nowhere"]),
    ("scripts.make_report", ["."], ["metrics.json"]),
    ("scripts.make_report", ["empty.txt"], ["empty.txt"]),
    ("scripts.compare_runs", ["nowhere"], ["1"]),
    ("scripts.compare_runs", ["empty.txt"], ["1"]),
    ("scripts.compare_rules", ["nowhere"], ["nowhere"]),
    ("scripts.export", ["nowhere", "--model", "0"], ["nowhere"]),
    ("scripts.export", [".", "--model", "0"], ["vectors.safetensors"]),
    ("scripts.export", [RUN, "--model", "99"], ["--model 99", 5]),
    ("scripts.export", [RUN, "--model", "-1"], ["--model -1"]),
    ("scripts.import_checkpoints", ["--model", "test_resnet", "--dataset", "digits", "--dir", "nowhere"], ["nowhere"]),
    ("scripts.import_checkpoints", ["--model", "test_resnet", "--dataset", "digits", "--dir", "."], ["--dir ."]),
    ("scripts.import_checkpoints", ["--model", "test_resnet", "--dataset", "digits", "--dir", "traps"], ["code"]),
    ("scripts.import_checkpoints", ["--model", "resnet81", "--dataset", "digits", "--dir", "traps"], ["resnet81"]),
    ("scripts.import_checkpoints", ["--model", "test_resnet", "--dataset", "digit", "--dir", "traps"], ["digit"]),
    (
        "scripts.import_checkpoints",
        ["--model", "test_resnet", "--dataset", "digits", "--dir", "traps", "--out", CHECKPOINTS],
        ["already exists"],
    ),
    ("scripts.compare_rules", ["empty.txt"], ["empty.txt"]),
]


@pytest.mark.parametrize("script, arguments, named", SCRIPTS)
def test_a_bad_argument_of_a_script_ends_in_one_sentence(workplace, script, arguments, named, capsys):
    (workplace.path / "empty.txt").touch()
    for number in range(3):
        write_archive_trap(workplace.path / f"traps/epoch{number}.pth")
    workplace.monkeypatch.chdir(workplace.path)
    workplace.monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(importlib.import_module(script).main)
    assert_names(assert_one_line(stop.value.code), *named)
    assert not (workplace.path / "sprung").exists()


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("make_report", []),
        ("export", ["run"]),
        ("compare_runs", []),
        ("import_checkpoints", ["--dir", "x"]),
        ("import_checkpoints", ["--dir", "x", "--model", "resnet18"]),
        ("measure", ["nothing"]),
        ("benchmark", ["--repeats", "none"]),
    ],
)
def test_missing_or_misspelled_arguments_end_with_the_usage_of_the_script(script, arguments, monkeypatch, capsys):
    module = importlib.import_module(f"scripts.{script}" + (".__main__" if script in ("measure", "benchmark") else ""))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as stop:
        module.main()
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and "usage: " in shown and "Traceback" not in shown


def test_a_real_process_writes_the_sentence_to_stderr_and_ends_with_status_1(tmp_path):
    command = [sys.executable, ROOT / "task_training.py", "seed=x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.splitlines()[-1].startswith("error: seed=x is invalid") and "Traceback" not in done.stderr
