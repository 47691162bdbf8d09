"""The trained generator: model i does not depend on its batch, and its file is complete and runs no code."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.generation.generator import WeightGenerator
from core.generation.generator_file import load_generator, load_matching_generator
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.generation.recipes import build_sampler
from core.runtime.artifacts import load_artifact, save_artifact
from core.runtime.errors import UserError
from tests.core.tiny import SAMPLERS, damaged_copies, sampler_recipe

FILES = Path(__file__).parent / "files"


@pytest.fixture
def saved(tmp_path, tiny_generator):
    path = tmp_path / "generator.safetensors"
    tiny_generator.save(path)
    return path


def replace_recipes(path, recipes):
    """Rewrite a generator file with other recipes, as an attacker could."""
    tensors, metadata = load_artifact(path, "generator")
    save_artifact(path, "generator", tensors, metadata={**metadata, "recipes": {**metadata["recipes"], **recipes}})


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_model_i_depends_neither_on_its_batch_nor_on_the_order(tiny_generator, sampler):
    tiny_generator.use_sampler({**sampler_recipe(sampler), "num_steps": 20})
    together = tiny_generator.sample(0, range(7))
    assert together.shape == (7, 60) and len(together.unique(dim=0)) == 7
    for other, rows in [
        (tiny_generator.sample(0, [5]), [5]),
        (tiny_generator.sample(0, [6, 2, 0]), [6, 2, 0]),
        (tiny_generator.sample(0, range(7), batch_size=3), range(7)),
        (tiny_generator.sample(0, range(5, 7)), [5, 6]),
    ]:
        torch.testing.assert_close(other, together[list(rows)], rtol=1e-4, atol=1e-4)


def test_sampling_depends_on_the_seed_alone(tiny_generator):
    first = tiny_generator.sample(0, range(3))
    torch.rand(1000)
    torch.testing.assert_close(tiny_generator.sample(0, range(3)), first, rtol=0, atol=0)
    assert (tiny_generator.sample(1, range(3)) - first).abs().max() > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_saved_generator_is_loaded_bit_by_bit(saved, tiny_generator, sampler):
    recipe = {**sampler_recipe(sampler), "num_steps": 20}
    before_MD = tiny_generator.use_sampler(recipe).sample(0, range(3))
    tiny_generator.save(saved)
    loaded = load_generator(saved)
    torch.testing.assert_close(loaded.sample(0, range(3)), before_MD, rtol=0, atol=0)
    assert loaded.fingerprint == tiny_generator.fingerprint
    assert (loaded.subset, loaded.trained_on, loaded.recipes) == (
        tiny_generator.subset,
        tiny_generator.trained_on,
        tiny_generator.recipes,
    )
    vectors_MD = torch.randn(3, 60)
    torch.testing.assert_close(loaded.reconstruct(vectors_MD), tiny_generator.reconstruct(vectors_MD), rtol=0, atol=0)


def test_decoding_is_in_eval_mode_and_changes_no_statistics(tiny_generator):
    assert not any(module.training for module in tiny_generator.modules())
    before = {name: tensor.clone() for name, tensor in tiny_generator.state_dict().items()}
    latents_BL = torch.randn(5, 6)
    together = tiny_generator.decode(latents_BL)
    torch.testing.assert_close(tiny_generator.decode(latents_BL[[3]]), together[[3]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tiny_generator.decode(latents_BL), together, rtol=0, atol=0)  # no latent noise
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_generator.state_dict().items())


@pytest.mark.parametrize("load", [False, True])
def test_networks_given_in_train_mode_decode_in_eval_mode(tiny_generator, tmp_path, load):
    expected = tiny_generator.decode(torch.ones(2, 6))
    tiny_generator.train()
    generator = LatentDiffusionGenerator(
        recipes=tiny_generator.recipes,
        subset=tiny_generator.subset,
        normalizer=tiny_generator.normalizer,
        latent_normalizer=tiny_generator.latent_normalizer,
        autoencoder=tiny_generator.autoencoder,
        denoiser=tiny_generator.denoiser,
        trained_on=tiny_generator.trained_on,
    )
    if load:
        generator.save(tmp_path / "generator.safetensors")
        generator = load_generator(tmp_path / "generator.safetensors")
    torch.testing.assert_close(generator.decode(torch.ones(2, 6)), expected, rtol=0, atol=0)


def test_generation_and_reconstruction_do_not_use_tensorfloat32(tiny_generator, tiny_checkpoints, monkeypatch):
    seen = set()
    for network, name in (
        (tiny_generator.denoiser, "forward"),
        (tiny_generator.autoencoder, "encode"),
        (tiny_generator.autoencoder, "decode"),
    ):
        original = getattr(network, name)
        monkeypatch.setattr(
            network,
            name,
            lambda *given, name=name, original=original: (
                seen.add((name, torch.backends.cudnn.allow_tf32)) or original(*given)
            ),
        )
    tiny_generator.sample(0, range(2))
    tiny_generator.reconstruct(tiny_checkpoints.vectors_KD)
    assert seen == {("forward", False), ("encode", False), ("decode", False)}


def test_decoding_undoes_the_latent_normalizer_first(tiny_generator):
    tiny_generator.autoencoder.encode = lambda vectors_BD: vectors_BD[:, :6]
    tiny_generator.autoencoder.decode = lambda latents_BL: torch.cat(
        [latents_BL, torch.zeros(len(latents_BL), 54)], dim=1
    )
    inner, outer = tiny_generator.latent_normalizer, tiny_generator.normalizer
    decoded = tiny_generator.decode(torch.ones(1, 6))
    torch.testing.assert_close(decoded[:, :6], (inner.mean + inner.std)[None] * outer.std[:6] + outer.mean[:6])
    torch.testing.assert_close(decoded[:, 6:], outer.mean[None, 6:])
    torch.testing.assert_close(tiny_generator.encode(decoded), torch.ones(1, 6), rtol=1e-4, atol=1e-4)


def test_a_lossless_autoencoder_reconstructs_exactly_in_order_and_in_batches(
    tiny_generator, tiny_checkpoints, monkeypatch
):
    tiny_generator.autoencoder.encode = tiny_generator.autoencoder.decode = lambda values: values
    tiny_generator.latent_normalizer = Normalizer.per_coordinate(torch.randn(9, 60))
    before = tiny_checkpoints.vectors_KD.clone()
    for rows in (200, 5):
        monkeypatch.setattr("core.generation.latent_diffusion.MAX_VECTORS_PER_PASS", rows)
        reconstructed = tiny_generator.reconstruct(tiny_checkpoints.vectors_KD)
        torch.testing.assert_close(reconstructed, before, rtol=1e-5, atol=1e-5)
    assert torch.equal(tiny_checkpoints.vectors_KD, before)


def test_generated_running_variances_are_positive(tiny_network, tiny_generator):
    """A whole network is generated with its running statistics; a negative variance would make its output NaN."""
    names = [name for name, tensor in tiny_network.state_dict().items() if tensor.is_floating_point()]
    subset = ParameterSubset.from_model(tiny_network, names)
    vectors_KD = torch.rand(9, subset.num_params)
    tiny_generator.normalizer = Normalizer.per_tensor(vectors_KD, subset)
    tiny_generator.autoencoder.decode = lambda latents_BL: 10 * torch.randn(len(latents_BL), subset.num_params)
    parts = dict(zip(subset.names, tiny_generator.decode(torch.randn(50, 6)).split(subset.sizes, dim=1), strict=True))
    assert (parts["1.running_var"] > 0).all() and (parts["1.running_mean"] < 0).any()


def test_progress_gets_every_batch_and_on_step_every_step(tiny_generator):
    batches, steps = [], []
    tiny_generator.sample(
        0,
        range(5),
        batch_size=2,
        progress=lambda items: batches.extend(items) or items,
        on_step=lambda t, x_BL: steps.append(len(x_BL)),
    )
    assert [list(batch) for batch in batches] == [[0, 1], [2, 3], [4]]
    assert steps == [2] * 20 + [2] * 20 + [1] * 20


@pytest.mark.parametrize(
    "indices, batch_size, named",
    [([], 200, r"generation\.num_models=0\b"), ([0], 0, r"generation\.batch_size=0\b")],
)
def test_sampling_no_model_or_with_no_batch_size_is_refused(tiny_generator, indices, batch_size, named):
    with pytest.raises(UserError, match=named):
        tiny_generator.sample(0, indices, batch_size=batch_size)


def test_the_sampler_may_be_changed_after_training(tiny_generator):
    default = tiny_generator.sample(0, [0])
    changed = tiny_generator.use_sampler({**sampler_recipe("ddim"), "num_steps": 4}).sample(0, [0])
    assert (default - changed).abs().max() > 1e-4


@pytest.mark.parametrize("change", ["weights", "statistics", "sampler"])
def test_the_fingerprint_changes_with_what_decides_the_samples(tiny_generator, change):
    before = tiny_generator.fingerprint
    if change == "weights":
        tiny_generator.denoiser.project_in.weight[0, 0] += 1
    elif change == "statistics":
        next(module for module in tiny_generator.modules() if isinstance(module, nn.BatchNorm1d)).running_mean[0] += 1
    else:
        tiny_generator.use_sampler({**tiny_generator.recipes["sampler"], "num_steps": 7})
    assert tiny_generator.fingerprint != before


def test_changing_the_sampler_of_one_generator_leaves_the_other_unchanged(saved, tiny_generator):
    recipes = tiny_generator.recipes
    other = load_generator(saved)
    other.use_sampler(sampler_recipe("ddim"))
    assert recipes["sampler"] == tiny_generator.recipes["sampler"] != other.recipes["sampler"]


def malicious_recipes(path):
    """Return recipes that would create the file `path` if Hydra called a function that they name."""
    touch = {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(path)]}]}
    network = {"_target_": "core.networks.autoencoder.ConvAutoencoder", "latent_dim": 6, "channels": [4, 8]}
    shell = {"_target_": "os.system", "_args_": [f"touch {path}"]}
    return {
        "os.system": shell,
        "subprocess.run": {"_target_": "subprocess.run", "args": ["touch", str(path)]},
        "any function": touch,
        "an argument": {**network, "channels": shell},
        "inside a list": {**network, "channels": [touch, 8]},
        "deep inside lists": {**network, "channels": [[[touch]]]},
        "inside a plain mapping": {**network, "channels": {"plain": touch}},
        "recursion asked for": {**network, "channels": [touch], "_recursive_": True},
        "through a module of ours": {"_target_": "core.networks.autoencoder.torch.hub.load", "_args_": [str(path)]},
        "through diffusers": {"_target_": "diffusers.utils.os.system", "_args_": [f"touch {path}"]},
        "a pipeline of diffusers": {"_target_": "diffusers.DiffusionPipeline.from_pretrained", "_args_": [str(path)]},
    }


ATTACKS = sorted(malicious_recipes("path"))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("network", ["autoencoder", "denoiser"])
def test_a_file_that_names_code_to_run_is_refused_without_running_it(saved, tmp_path, network, attack):
    replace_recipes(saved, {network: malicious_recipes(tmp_path / "ran")[attack]})
    with pytest.raises(UserError) as error:
        load_generator(saved)
    assert str(saved) in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_sampler_that_names_code_to_run_is_refused_without_running_it(saved, tmp_path, attack):
    scheduler = {**malicious_recipes(tmp_path / "ran")[attack], "_partial_": True}
    replace_recipes(saved, {"sampler": {"num_steps": 5, "scheduler": scheduler}})
    with pytest.raises(UserError, match=f"_target_={re.escape(scheduler['_target_'])} is invalid"):
        load_generator(saved).sample(0, [0])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "recipes",
    [
        {
            "autoencoder": {
                "_target_": "core.networks.autoencoder.ConvAutoencoder",
                "channels": [4, 16],
                "latent_dim": 6,
            }
        },
        {"autoencoder": {"_target_": "core.networks.autoencoder.ConvAutoencoder", "kernel_size": 4}},
        {"autoencoder": {"_target_": "core.networks.autoencoder.NoSuchClass"}},
        {"autoencoder": {}},
        {"denoiser": {"_target_": "core.networks.denoiser.MLPDenoiser", "hidden": 16}},
        {"schedule": {"num_timesteps": 0}},
        {"schedule": {"steps": 10}},
    ],
    ids=str,
)
def test_a_file_whose_recipes_do_not_fit_its_tensors_is_named(saved, recipes):
    replace_recipes(saved, recipes)
    with pytest.raises(UserError) as error:
        load_generator(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("missing", ["denoiser.project_in.weight", "normalizer.mean", "latent_normalizer.log"])
def test_a_file_that_lacks_a_tensor_is_named(saved, missing):
    tensors, metadata = load_artifact(saved, "generator")
    del tensors[missing]
    save_artifact(saved, "generator", tensors, metadata=metadata)
    with pytest.raises(UserError, match=missing) as error:
        load_generator(saved)
    assert str(saved) in str(error.value) and "mode=train" in str(error.value)


@pytest.mark.parametrize("missing", ["recipes", "subset", "trained_on"])
def test_a_file_that_lacks_metadata_is_named(saved, missing):
    tensors, metadata = load_artifact(saved, "generator")
    del metadata[missing]
    save_artifact(saved, "generator", tensors, metadata=metadata)
    with pytest.raises(UserError, match=missing) as error:
        load_generator(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("damage", ["empty", "half", "other content"])
def test_a_damaged_file_is_named(saved, damage):
    saved.write_bytes(dict(damaged_copies(saved))[damage])
    with pytest.raises(UserError, match=r"generator\.safetensors"):
        load_generator(saved)


def test_a_missing_file_says_how_to_train_one(tmp_path):
    with pytest.raises(UserError, match=r"absent.*train_p_diff\.py mode=train"):
        load_generator(tmp_path / "absent")


def test_checkpoints_are_no_generator(tmp_path, tiny_checkpoints):
    tiny_checkpoints.save(tmp_path / "checkpoints.safetensors")
    with pytest.raises(UserError, match=r"checkpoints\.safetensors .*checkpoints"):
        load_generator(tmp_path / "checkpoints.safetensors")


def test_the_recipes_are_plain_values(saved):
    _, metadata = load_artifact(saved, "generator")
    assert json.loads(json.dumps(metadata["recipes"])) == metadata["recipes"]
    assert set(metadata["recipes"]) == {"autoencoder", "denoiser", "schedule", "sampler"}


def test_a_file_of_an_earlier_version_still_gives_the_same_vectors():
    """Commit 51f1b39 wrote the file; at that time generator files did not name a kind."""
    generator = load_generator(FILES / "generator_51f1b39.safetensors")
    assert isinstance(generator, LatentDiffusionGenerator) and generator.fingerprint == "44aad726997ef094"
    assert generator.trained_on["k"] == 12 and generator.trained_on["seconds"] == {"autoencoder": 1.0, "diffusion": 2.0}
    expected = load_file(FILES / "expected.safetensors")
    torch.testing.assert_close(generator.sample(3, range(4)), expected["sampled"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        generator.reconstruct(expected["vectors"]), expected["reconstructed"], rtol=1e-5, atol=1e-6
    )


class Copies(WeightGenerator):
    """Another kind of generator, without latents or steps: a model is one of the vectors that it keeps."""

    kind = "copies"

    def __init__(self, kept_KD, **options):
        super().__init__(recipes={}, **options)
        self.register_buffer("kept_KD", kept_KD)

    @classmethod
    def from_file(cls, state, metadata):
        subset = ParameterSubset.from_metadata(metadata["subset"])
        return cls(state["kept_KD"], subset=subset, trained_on=metadata["trained_on"])

    def sample(self, seed, indices, *, batch_size=200, progress=iter, on_step=None):
        return self.kept_KD[[index % len(self.kept_KD) for index in indices]]


@pytest.fixture
def copies(tmp_path, tiny_checkpoints):
    trained_on = {"fingerprint": tiny_checkpoints.fingerprint, "k": 12, "seed": 0, "seconds": {}}
    generator = Copies(tiny_checkpoints.vectors_KD, subset=tiny_checkpoints.subset, trained_on=trained_on)
    generator.save(tmp_path / "copies.safetensors")
    return generator


def test_a_file_is_read_as_the_kind_of_generator_that_it_names(tmp_path, tiny_checkpoints, copies, monkeypatch):
    monkeypatch.setattr("core.generation.generator_file.GENERATORS", {"copies": Copies})
    loaded = load_matching_generator(tmp_path / "copies.safetensors", tiny_checkpoints)
    assert torch.equal(loaded.sample(0, [3, 13]), tiny_checkpoints.vectors_KD[[3, 1]])
    assert (loaded.has_encoder, loaded.has_steps) == (False, False)
    assert (loaded.fingerprint, loaded.subset, loaded.trained_on) == (
        copies.fingerprint,
        copies.subset,
        copies.trained_on,
    )
    assert loaded.use_sampler(sampler_recipe("ddim")).fingerprint == copies.fingerprint  # without effect


def test_an_unknown_kind_is_named(tmp_path, copies):
    with pytest.raises(UserError, match="unknown generator kind copies") as error:
        load_generator(tmp_path / "copies.safetensors")
    assert str(tmp_path / "copies.safetensors") in str(error.value)


def test_a_generator_of_other_checkpoints_is_refused_with_both_files(saved, tiny_checkpoints):
    assert load_matching_generator(saved, tiny_checkpoints).trained_on["k"] == 12
    others = replace(
        tiny_checkpoints, rows=VectorRows([tiny_checkpoints.vectors_KD + 1]), path=saved.with_name("others")
    )
    with pytest.raises(UserError, match="was not trained on") as error:
        load_matching_generator(saved, others)
    assert str(saved) in str(error.value) and str(others.path) in str(error.value)


def test_only_a_generator_with_a_denoiser_has_steps(tiny_generator):
    assert (tiny_generator.has_encoder, tiny_generator.has_steps) == (True, True)
    tiny_generator.denoiser = None
    assert (tiny_generator.has_encoder, tiny_generator.has_steps) == (True, False)


def test_a_sampler_without_its_scheduler_is_one_sentence():
    with pytest.raises(UserError, match=r"system\.sampler\.scheduler is missing\. Set system/sampler to one of ddim"):
        build_sampler({"num_steps": 3}, NoiseSchedule(10))
