"""Training of a generator: averaged weights, frozen autoencoder, resumed stages, recorded settings."""

import copy
import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning import Callback

from core.checkpoints.vector_rows import VectorRows
from core.generation.generator_file import load_generator
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.runtime import trainer
from core.runtime.errors import UserError
from core.runtime.progress import Stages
from core.runtime.seeding import generator_for
from core.training.fit_generator import fit_generator, select_held_out
from core.training.stage_modules import LatentDiffusionModule
from core.training.system import SystemSpec, select_training_settings
from tests.core.tiny import CONFIGS, StopAfter, assert_same, cpu_trainer, make_checkpoints, make_network

FILES = Path(__file__).parent / "files"
DECAY, STEPS = 0.8, 23  # system.ema_decay and system.diffusion_steps of tiny_system


AUTOENCODERS = {
    "pca": {"_target_": "core.networks.linear_autoencoders.PCAAutoencoder", "latent_dim": 6},
    "chunked": {
        "_target_": "core.networks.linear_autoencoders.ChunkedAutoencoder",
        "chunk_size": 16,
        "rank": 4,
        "channels": [8],
        "latent_dim": 6,
    },
}


class RecordDiffusion(Callback):
    """A callback that records the latents of the diffusion stage, and the denoiser after each of its steps."""

    def __init__(self):
        self.states = []

    def on_train_start(self, trainer, module):
        self.latents_KL = module.rows_K.clone()  # the diffusion stage is last, so its rows remain
        self.held_out = module.held_out_arguments

    def on_train_batch_end(self, trainer, module, *_):
        if isinstance(module, LatentDiffusionModule):
            self.states.append({name: tensor.detach().clone() for name, tensor in module.denoiser.state_dict().items()})


class StopDiffusionAfter(StopAfter):
    """A callback that ends the diffusion stage after `steps` of its steps."""

    def on_train_batch_end(self, trainer, module, *_):
        if isinstance(module, LatentDiffusionModule):
            super().on_train_batch_end(trainer, module)


def make_spec(system) -> SystemSpec:
    return SystemSpec.from_config(OmegaConf.to_container(system, resolve=True))


def train(folder, system, checkpoints, *extra, seed=0) -> LatentDiffusionGenerator:
    """Fit both stages, or resume them; only a fit that stops or resumes saves a training state after every step."""
    stages = Stages(["autoencoder", "diffusion"])
    stops = any(isinstance(callback, StopAfter) for callback in extra)
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not stops and not any(folder.rglob("*.ckpt")):
            monkeypatch.setattr(trainer, "SAVE_EVERY", timedelta(hours=1))
        return fit_generator(
            make_spec(system),
            checkpoints,
            seed=seed,
            state_dir=folder / "training_state",
            make_trainer=cpu_trainer(*extra),
            loggers=[],
            stages=stages,
        )


@pytest.fixture(scope="module")
def checkpoints():
    torch.manual_seed(0)
    return make_checkpoints(make_network())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shrunk_system, checkpoints):
    """Return the folder and the generator of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(folder, shrunk_system, checkpoints)


@pytest.mark.parametrize("denoiser", ["mlp", "conv"])
def test_the_generator_holds_the_average_of_the_weights_and_not_the_last_ones(
    tiny_system, checkpoints, tmp_path, denoiser
):
    if denoiser == "conv":  # has BatchNorm statistics, which are averaged, too
        tiny_system.denoiser = OmegaConf.create(
            {"_target_": "core.networks.denoiser.ConvDenoiser", "channels": [4, 8, 4, 1], "kernel_size": 3}
        )
    record = RecordDiffusion()
    generator = train(tmp_path, tiny_system, checkpoints, record)
    assert len(record.states) == STEPS

    average = {name: tensor.double() for name, tensor in record.states[0].items() if tensor.is_floating_point()}
    for state in record.states[1:]:
        average = {name: DECAY * before + (1 - DECAY) * state[name] for name, before in average.items()}

    generator.save(tmp_path / "generator.safetensors")
    for stage in (generator, load_generator(tmp_path / "generator.safetensors")):
        final = stage.denoiser.state_dict()
        for name, expected in average.items():
            torch.testing.assert_close(final[name].double(), expected, rtol=1e-4, atol=1e-6)
        last = record.states[-1]
        assert all((final[name] - last[name]).abs().max() > 1e-5 for name in average if name.endswith("weight"))


def test_the_diffusion_learns_standardized_latents_of_the_autoencoder_in_eval_mode(tiny_system, checkpoints, tmp_path):
    """Latents have zero mean and unit variance only if they are normalized and encoded independently of the batch."""
    record = RecordDiffusion()
    generator = train(tmp_path, tiny_system, checkpoints, record)
    for latents_KL in (record.latents_KL, generator.encode(checkpoints.vectors_KD)):
        torch.testing.assert_close(latents_KL.mean(dim=0), torch.zeros(6), rtol=0, atol=1e-4)
        torch.testing.assert_close(latents_KL.std(dim=0, correction=0), torch.ones(6), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(generator.encode(checkpoints.vectors_KD), record.latents_KL, rtol=1e-4, atol=1e-4)


def test_the_second_stage_does_not_change_the_autoencoder(finished, tiny_system, checkpoints, tmp_path):
    tiny_system.diffusion_steps = STEPS + 10
    longer = train(tmp_path, tiny_system, checkpoints)
    assert_same(longer.autoencoder.state_dict(), finished[1].autoencoder.state_dict())
    assert not torch.equal(longer.denoiser.project_in.weight, finished[1].denoiser.project_in.weight)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_result_depends_on_the_seed_and_not_on_the_global_random_state(
    finished, tiny_system, checkpoints, tmp_path, seed
):
    torch.rand(1000)
    generator, first = train(tmp_path, tiny_system, checkpoints, seed=seed), finished[1]
    assert torch.equal(generator.autoencoder.to_latent.weight, first.autoencoder.to_latent.weight) == (seed == 0)
    assert torch.equal(generator.denoiser.project_in.weight, first.denoiser.project_in.weight) == (seed == 0)


@pytest.mark.parametrize(
    "stop",
    [StopAfter(13), StopDiffusionAfter(1), StopDiffusionAfter(13)],
    ids=["autoencoder", "diffusion, no state", "diffusion"],
)
def test_an_interrupted_training_gives_the_same_generator(finished, tiny_system, checkpoints, tmp_path, stop):
    with pytest.raises(RuntimeError):
        train(tmp_path, tiny_system, checkpoints, stop)
    assert_same(train(tmp_path, tiny_system, checkpoints).state_dict(), finished[1].state_dict())


def test_a_finished_training_is_loaded_and_not_repeated(finished, tiny_system, checkpoints):
    folder, generator = finished
    again = train(folder, tiny_system, checkpoints, StopAfter(1))  # raises if a stage trains
    assert_same(again.state_dict(), generator.state_dict())
    assert again.trained_on == generator.trained_on


def test_training_on_two_checkpoints_works_and_does_not_change_them(tiny_system, checkpoints, tmp_path):
    two = checkpoints.first(2)
    before = two.fingerprint
    generator = train(tmp_path, tiny_system, two, seed=3)
    assert replace(two).fingerprint == before  # the copy computes its fingerprint anew
    assert torch.isfinite(generator.sample(0, range(3))).all()
    assert (generator.trained_on["fingerprint"], generator.trained_on["k"], generator.trained_on["seed"]) == (
        before,
        2,
        3,
    )
    assert set(generator.trained_on["seconds"]) == {"autoencoder", "diffusion"}


def test_the_settings_hold_what_decides_the_generator_but_not_the_sampler(tiny_system, tiny_checkpoints):
    settings = select_training_settings(make_spec(tiny_system), tiny_checkpoints, seed=5)
    assert (
        settings["seed"] == 5
        and settings["task"]["param"]["k"] == 12
        and settings["checkpoints"] == tiny_checkpoints.fingerprint
    )
    assert settings["system"]["ema_decay"] == DECAY and settings["system"]["autoencoder"]["channels"] == [4, 8]

    changed = copy.deepcopy(tiny_system)
    changed.sampler.num_steps = 7
    assert select_training_settings(make_spec(changed), tiny_checkpoints, seed=5) == settings
    changed.ema_decay = 0.5
    assert select_training_settings(make_spec(changed), tiny_checkpoints, seed=5) != settings
    assert select_training_settings(make_spec(tiny_system), tiny_checkpoints.first(11), seed=5) != settings


class TwelveCheckpoints:
    fingerprint = "0123456789abcdef"

    def __len__(self):
        return 12


@pytest.mark.parametrize("system", ["ae_ddpm", "vae"])
def test_the_settings_equal_those_that_an_earlier_version_recorded(system):
    """The files hold the settings that commit 51f1b39 recorded; its runs must still be recognized as the same."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("base", overrides=[f"system={system}"]).system
    recorded = json.loads((FILES / f"settings_{system}.json").read_text())
    assert select_training_settings(make_spec(composed), TwelveCheckpoints(), seed=5) == recorded


def test_an_unknown_and_a_missing_setting_are_named(tiny_system):
    settings = OmegaConf.to_container(tiny_system, resolve=True)
    with pytest.raises(UserError, match=r"system\.ema_decays .*\bema_decay\b"):
        SystemSpec.from_config({**settings, "ema_decays": 0.9})
    del settings["ema_decay"]
    with pytest.raises(UserError, match=r"system\.ema_decay .*system\.ema_decay="):
        SystemSpec.from_config(settings)


def test_an_error_of_a_diverging_training_names_the_stage(tiny_system, checkpoints, tmp_path):
    tiny_system.denoiser_optimizer.lr = 1e30
    with pytest.raises(UserError, match=r"^diffusion: .*learning rate"):
        train(tmp_path, tiny_system, checkpoints)


def test_without_a_denoiser_latents_are_drawn_from_the_prior(tiny_system, checkpoints, tmp_path):
    vae = {
        "_target_": "core.networks.autoencoder.VariationalAutoencoder",
        "channels": [4, 8],
        "latent_dim": 6,
        "kl_weight": 1.0,
    }
    tiny_system.autoencoder, tiny_system.denoiser, tiny_system.sampler = OmegaConf.create(vae), None, None
    generator = train(tmp_path, tiny_system, checkpoints)
    assert (
        set(generator.trained_on["seconds"]) == {"autoencoder"}
        and not (tmp_path / "training_state/diffusion.safetensors").exists()
    )
    generator.save(tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors")
    drawn_MD = loaded.sample(3, range(4))
    prior_ML = torch.stack([torch.randn(6, generator=generator_for(3, "generate", index)) for index in range(4)])
    torch.testing.assert_close(drawn_MD, loaded.normalizer.unnormalize(loaded.autoencoder.decode(prior_ML)))
    torch.testing.assert_close(loaded.sample(3, [2]), drawn_MD[[2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("autoencoder", AUTOENCODERS.values(), ids=AUTOENCODERS)
def test_autoencoders_that_adapt_to_the_vectors_can_be_resumed_saved_and_loaded(
    tiny_system, checkpoints, tmp_path, autoencoder
):
    tiny_system.autoencoder = OmegaConf.create(autoencoder)
    generator = train(tmp_path, tiny_system, checkpoints)
    again = train(tmp_path, tiny_system, checkpoints)  # loads both finished stages
    assert_same(again.state_dict(), generator.state_dict())
    generator.save(tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors")
    torch.testing.assert_close(
        loaded.reconstruct(checkpoints.vectors_KD), generator.reconstruct(checkpoints.vectors_KD)
    )
    spread_D = checkpoints.vectors_KD.std(dim=0)
    far_D = (generator.reconstruct(checkpoints.vectors_KD) - checkpoints.vectors_KD).abs().mean(dim=0)
    assert far_D.mean() < spread_D.mean(), "a worse reconstruction than the mean of the checkpoints"


def split_into_shards(checkpoints):
    """Return the set with its vectors in shards of 5, 3 and 4 rows."""
    return replace(checkpoints, rows=VectorRows(checkpoints.vectors_KD.split((5, 3, 4))))


@pytest.mark.parametrize("name", ["small", *AUTOENCODERS])
def test_shards_give_the_generator_of_one_tensor(tiny_system, checkpoints, tmp_path, name):
    tiny_system.autoencoder = OmegaConf.create(AUTOENCODERS.get(name, tiny_system.autoencoder))
    tiny_system.normalization = "none"  # the mean over several shards is rounded differently
    one = train(tmp_path / "one", tiny_system, checkpoints)
    several = train(tmp_path / "several", tiny_system, split_into_shards(checkpoints))
    assert_same(several.state_dict(), one.state_dict())


def test_shards_give_the_normalization_of_one_tensor(finished, tiny_system, checkpoints, tmp_path):
    several, one = train(tmp_path, tiny_system, split_into_shards(checkpoints)), finished[1]
    torch.testing.assert_close(several.normalizer.mean, one.normalizer.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(several.normalizer.std, one.normalizer.std, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(several.sample(0, range(3)), one.sample(0, range(3)), rtol=1e-3, atol=1e-3)


def read_held_out_losses(folder):
    """Return the held-out losses of a training by (name, step); a step that was repeated has its last value."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        (name, line["step"]): value for line in lines for name, value in line.items() if name.endswith("held_out_loss")
    }


@pytest.mark.parametrize("name", ["small", "chunked"])
def test_held_out_vectors_change_the_held_out_losses_and_no_weight(tiny_system, checkpoints, tmp_path, name):
    tiny_system.autoencoder = OmegaConf.create(AUTOENCODERS.get(name, tiny_system.autoencoder))
    without = train(tmp_path / "without", tiny_system, checkpoints)
    assert not read_held_out_losses(tmp_path / "without")
    losses = []
    for number in range(2):
        held_out_HD = checkpoints.vectors_KD[:7] + number + torch.randn(7, 60)
        folder = tmp_path / str(number)
        generator = train(folder, tiny_system, replace(checkpoints, held_out_HD=held_out_HD))
        assert_same(generator.state_dict(), without.state_dict())
        losses.append(read_held_out_losses(folder))
    assert (
        losses[0].keys()
        == losses[1].keys()
        == {
            *(("autoencoder/held_out_loss", step) for step in range(24)),
            *(("diffusion/held_out_loss", step) for step in range(STEPS)),
        }
    )
    assert all(losses[0][key] != losses[1][key] for key in losses[0])


@pytest.mark.parametrize("count", [0, 1])
def test_a_set_without_a_vector_for_validation_has_no_held_out_loss(tiny_system, checkpoints, tmp_path, count):
    train(tmp_path, tiny_system, replace(checkpoints, held_out_HD=checkpoints.vectors_KD[:count]))
    assert not read_held_out_losses(tmp_path)


def test_held_out_latents_are_encoded_and_standardized_like_the_others(tiny_system, checkpoints, tmp_path):
    record = RecordDiffusion()
    validation_and_audit = torch.cat([checkpoints.vectors_KD, torch.full_like(checkpoints.vectors_KD, torch.nan)])
    train(tmp_path, tiny_system, replace(checkpoints, held_out_HD=validation_and_audit), record)
    torch.testing.assert_close(record.held_out[0][:12], record.latents_KL)


@pytest.mark.parametrize("stop", [StopAfter(13), StopDiffusionAfter(13)], ids=["autoencoder", "diffusion"])
def test_a_resumed_training_has_the_held_out_losses_of_an_uninterrupted_one(tiny_system, checkpoints, tmp_path, stop):
    with_held_out = replace(checkpoints, held_out_HD=checkpoints.vectors_KD + 0.1)
    train(tmp_path / "whole", tiny_system, with_held_out)
    with pytest.raises(RuntimeError):
        train(tmp_path / "resumed", tiny_system, with_held_out, stop)
    train(tmp_path / "resumed", tiny_system, with_held_out)
    assert read_held_out_losses(tmp_path / "resumed") == read_held_out_losses(tmp_path / "whole")


def test_only_some_held_out_vectors_are_used_if_there_are_many(checkpoints, monkeypatch):
    monkeypatch.setattr("core.training.fit_generator.MAX_HELD_OUT", 4)
    many = replace(checkpoints, held_out_HD=torch.arange(20.0)[:, None].expand(20, 60))
    assert select_held_out(many)[:, 0].tolist() == [0, 3, 6, 9]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_a_compiled_loss_trains_the_same_network(tiny_system, checkpoints, tmp_path):
    # Compiled code draws other random numbers, so the noises are switched off.
    tiny_system.autoencoder.latent_noise = tiny_system.autoencoder.input_noise = 0.0
    tiny_system.autoencoder_steps = 3
    eager = train(tmp_path / "eager", tiny_system, checkpoints)
    tiny_system.compile = "default"
    compiled = train(tmp_path / "compiled", tiny_system, checkpoints)
    # Weights are not compared, because Adam turns the rounding error of a zero gradient into a whole step.
    vectors_KD = checkpoints.vectors_KD
    torch.testing.assert_close(compiled.reconstruct(vectors_KD), eager.reconstruct(vectors_KD), rtol=1e-2, atol=1e-2)


def test_without_normalization_both_stages_get_raw_numbers(tiny_system, checkpoints, tmp_path):
    tiny_system.normalization = tiny_system.latent_normalization = "none"
    record = RecordDiffusion()
    generator = train(tmp_path, tiny_system, checkpoints, record)
    with torch.no_grad():
        torch.testing.assert_close(record.latents_KL, generator.autoencoder.encode(checkpoints.vectors_KD))
    generator.save(tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors")
    torch.testing.assert_close(loaded.encode(checkpoints.vectors_KD), record.latents_KL)


@pytest.mark.parametrize(
    "name, words",
    [("normalization", "per_.*none"), ("latent_normalization", "per_.*none"), ("learning_rate_schedule", "constant")],
)
def test_an_unknown_choice_is_refused_before_training(tiny_system, checkpoints, tmp_path, name, words):
    tiny_system[name] = "batch"
    with pytest.raises(UserError, match=rf"system\.{name}=batch .*{words}"):
        train(tmp_path, tiny_system, checkpoints)
    assert not (tmp_path / "training_state").exists()


def test_without_a_decay_the_generator_has_the_weights_of_the_last_step(tiny_system, checkpoints, tmp_path):
    tiny_system.ema_decay = None
    record = RecordDiffusion()
    generator = train(tmp_path, tiny_system, checkpoints, record)
    assert_same(generator.denoiser.state_dict(), record.states[-1])
    assert_same(train(tmp_path, tiny_system, checkpoints).state_dict(), generator.state_dict())  # loads both stages


def test_a_setting_that_older_runs_lack_is_recorded_only_if_it_has_another_value(tiny_system, tiny_checkpoints):
    recorded = select_training_settings(make_spec(tiny_system), tiny_checkpoints, seed=5)["system"]
    assert "learning_rate_schedule" not in recorded and "residual" not in recorded["denoiser"]
    tiny_system.learning_rate_schedule, tiny_system.denoiser.residual = "constant", False
    recorded = select_training_settings(make_spec(tiny_system), tiny_checkpoints, seed=5)["system"]
    assert recorded["learning_rate_schedule"] == "constant" and recorded["denoiser"]["residual"] is False


SMALL_RELEASES = {  # a system -> overrides that let it train on 128 parameters in two steps
    "release1": [
        "system.autoencoder.fold=3", "system.autoencoder.encoder_channels=[2,2,2,2]",
        "system.autoencoder.decoder_channels=[2,4,4,2]", "system.denoiser.channels=[4,8]",
    ],
    "release2": ["system.autoencoder.channels=[4,8]", "system.denoiser.channels=[4,8,4,1]"],
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL_RELEASES)
def test_the_systems_of_the_releases_train_save_and_sample(tmp_path, name):
    network = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.BatchNorm1d(32), torch.nn.LayerNorm(32)).eval()
    few = make_checkpoints(network)
    overrides = [
        f"system={name}", "system.autoencoder_steps=2", "system.diffusion_steps=2", *SMALL_RELEASES[name],
        "system.schedule.num_timesteps=10", "system.sampler.num_steps=10", "task.param.k=12",
    ]  # fmt: skip
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        system = compose("base", overrides=overrides)
    OmegaConf.resolve(system)
    spec = make_spec(system.system)
    spec.check(few.subset.num_params)
    generator = train(tmp_path, system.system, few)
    generator.save(tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors")
    drawn_MD = loaded.sample(3, range(4))
    assert drawn_MD.shape == (4, few.subset.num_params) and torch.isfinite(drawn_MD).all()
    torch.testing.assert_close(loaded.sample(3, [2]), drawn_MD[[2]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(generator.sample(3, range(4)), drawn_MD, rtol=0, atol=0)
    if name == "release1":
        assert (
            spec.batch_size == 12 and (loaded.normalizer.std == 1).all() and (loaded.latent_normalizer.std == 1).all()
        )
        latents = []
        loaded.sample(3, range(4), on_step=lambda t, x_BL: latents.append(x_BL))
        assert max(x_BL.abs().max() for x_BL in latents) == 1


def test_too_few_learned_timesteps_are_refused_before_training(tiny_system, tiny_checkpoints):
    tiny_system.denoiser = {"_target_": "core.networks.release1.Release1Denoiser", "num_timesteps": 999}
    with pytest.raises(UserError, match=r"system\.denoiser\.num_timesteps=999 .*num_timesteps=1000"):
        make_spec(tiny_system).check(tiny_checkpoints.subset.num_params)
