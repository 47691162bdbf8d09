"""Tests that more steps or more models cause no further copies to or from the device, and no further waits."""

import copy
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.optim import AdamW
from torch.utils.data import Dataset

from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import flatten, resolve_subset
from core.generation.latent_diffusion import LatentDiffusionGenerator
from core.networks.autoencoder import ConvAutoencoder
from core.networks.denoiser import MLPDenoiser
from core.runtime.trainer import fit
from core.training.stage_modules import AutoencoderModule
from core.training.weight_average import WeightAverage
from tasks.data.splits import ColorNormalizer, gather_labeled_images
from tasks.networks.build import build_classifier
from tasks.objectives.classification import Classification
from tasks.scoring import scorer as scoring
from tasks.scoring.frozen_prefix import split_network
from tasks.scoring.scorer import Scorer, ScoringSpec
from tasks.task import Task
from tasks.training import finetuning
from tasks.training.finetuning import finetune
from tests.core.tiny import make_diffusion_module, make_network, sampler_recipe
from tests.device_stand_in import DEVICE, stand_in, stand_in_trainer

BATCH = 8
COLORS = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)


class Bytes(Dataset):
    """24 color images of 16 pixels, as bytes."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return torch.full((3, 16, 16), index, dtype=torch.uint8), index % 4


@pytest.fixture(autouse=True)
def read_the_loss_5_times_per_fit(monkeypatch):
    """Fix the number of times that a fit reads its loss, because each read is a wait."""
    monkeypatch.setattr("core.runtime.trainer.LOSS_READS_PER_FIT", 5)


def count_crossings(make_module, folder, num_steps, *callbacks):
    """Return the copies and waits of a whole fit, including the ones for its files."""
    with stand_in() as crossings:
        torch.manual_seed(0)
        fit(
            make_module(num_steps),
            name="stage",
            state_dir=folder / f"{num_steps}/state",
            make_trainer=stand_in_trainer,
            callbacks=callbacks,
        )
    return crossings


def test_the_stand_in_counts_copies_and_waits():
    with stand_in() as crossings:
        on_device = torch.arange(4.0).to(DEVICE)
        assert on_device.device == DEVICE and (on_device * 2).sum().item() == 12
        assert crossings == {"to the device": 1, "read by _local_scalar_dense": 1}
        assert on_device[torch.tensor([1, 2])].cpu().tolist() == [1, 2]
        assert crossings["to the device inside index"] == crossings["from the device"] == 1
        for read in (
            torch.unique,
            torch.nonzero,
            lambda x: x[x > 1],
            lambda x: torch.equal(x, x),
            lambda x: bool((x > 2).any()),
        ):
            before = crossings.total()
            read(on_device)
            assert crossings.total() > before, read


@pytest.mark.parametrize("in_log_space", [False, True])
def test_the_autoencoder_trains_without_waiting(tmp_path, in_log_space):
    def make_module(num_steps):
        vectors_KD = torch.rand(9, 20) + 0.1
        normalizer = Normalizer(vectors_KD.mean(0), torch.ones(20), torch.arange(20) < 5 if in_log_space else None)
        autoencoder = ConvAutoencoder(20, channels=(4,), latent_dim=5)
        return AutoencoderModule(
            autoencoder,
            vectors_KD,
            normalizer,
            held_out_H=vectors_KD + 0.1,
            make_optimizer=partial(AdamW, lr=1e-2),
            num_steps=num_steps,
            batch_size=4,
            seed=0,
        )

    assert count_crossings(make_module, tmp_path, 20) == count_crossings(make_module, tmp_path, 30)


def test_the_denoiser_and_the_average_of_its_weights_train_without_waiting(tmp_path):
    def make_module(num_steps):
        return make_diffusion_module(MLPDenoiser(6, hidden_dim=8, num_blocks=1), num_steps=num_steps)

    short, long = (count_crossings(make_module, tmp_path, num_steps, WeightAverage(0.9)) for num_steps in (20, 30))
    assert short == long


def make_generator(sampler, num_steps):
    torch.manual_seed(0)
    network = make_network()
    subset = resolve_subset(network, "last_norms", count=2)
    vectors_KD = flatten(network, subset) + 0.1 * torch.randn(9, subset.num_params)
    autoencoder, denoiser = ConvAutoencoder(60, channels=(4,), latent_dim=6), MLPDenoiser(6, hidden_dim=8, num_blocks=1)
    recipes = {
        "autoencoder": {"_target_": "core.networks.autoencoder.ConvAutoencoder", "channels": [4], "latent_dim": 6},
        "denoiser": {"_target_": "core.networks.denoiser.MLPDenoiser", "hidden_dim": 8, "num_blocks": 1},
        "schedule": {"num_timesteps": 60, "beta_start": 1e-4, "beta_end": 0.02},
        "sampler": {**sampler_recipe(sampler), "num_steps": num_steps},
    }
    return LatentDiffusionGenerator(
        recipes=recipes,
        subset=subset,
        normalizer=Normalizer.per_tensor(vectors_KD, subset),
        latent_normalizer=Normalizer.identity(6),
        autoencoder=autoencoder,
        denoiser=denoiser,
        trained_on={"k": 9},
    )


@pytest.mark.parametrize("sampler, copies_per_step", [("dpm_solver", 0), ("ddim", 0), ("ddpm", 1)])
def test_sampling_copies_nothing_but_the_noise_that_a_sampler_draws(sampler, copies_per_step):
    # DDPM draws noise at every step. It draws on the CPU, so that a model is the same on every device.
    found = {}
    for num_steps, num_models in ((20, 3), (20, 6), (30, 3)):
        generator = make_generator(sampler, num_steps)
        with stand_in() as crossings:
            generator.to(DEVICE).sample(0, range(num_models))
        found[num_steps, num_models] = crossings
    assert found[20, 3] == found[20, 6], "the copies grow with the models"
    assert found[30, 3] - found[20, 3] == Counter({"to the device": 10 * copies_per_step} if copies_per_step else {})


@pytest.fixture
def on_stand_in(monkeypatch):
    """Return a network and its subset; it is split in advance, because torch cannot trace tensors on DEVICE."""
    torch.manual_seed(0)
    model = build_classifier("test_resnet", num_classes=4, channels=3, image_size=16).eval()
    subset = resolve_subset(model, "last_norms")
    network = split_network(copy.deepcopy(model).requires_grad_(False), subset.names, torch.zeros(BATCH, 3, 16, 16))

    def return_split(model, names, images, any_size=False):
        assert images.device == DEVICE and images.shape == (BATCH, 3, 16, 16) and names == subset.names
        return replace(
            network, **{part: copy.deepcopy(getattr(network, part)).to(DEVICE) for part in ("prefix", "suffix")}
        )

    for module in (scoring, finetuning):
        monkeypatch.setattr(module, "split_network", return_split)
    return model, subset


@pytest.mark.parametrize("cache_bytes", [1e9, 0])
def test_scoring_copies_images_once_and_not_for_each_model(on_stand_in, cache_bytes):
    model, subset = on_stand_in
    vectors_MD = flatten(model, subset) + 0.1 * torch.randn(6, subset.num_params)
    with stand_in() as crossings:
        scorer = Scorer(
            model,
            subset,
            Bytes(),
            objective=Classification(4),
            normalize=ColorNormalizer(COLORS),
            options=ScoringSpec(batch_size=BATCH, cache_bytes=cache_bytes, device=DEVICE),
        )
        scorer(vectors_MD[:2])
        found = []
        for num_models in (3, 6):
            crossings.clear()
            scorer(vectors_MD[:num_models])
            found.append(dict(crossings))
    images = 0 if cache_bytes else 2 * 3  # images and labels of three batches
    votes = {"to the device": 2, "from the device": 6}  # their order and temperatures, their arrays and the fit
    assert (
        found[0]
        == found[1]
        == {
            "to the device": 1 + votes["to the device"] + images,
            "from the device": 3 + votes["from the device"],
        }
    )


def test_finetuning_copies_its_batches_and_nothing_else(on_stand_in):
    model, subset = on_stand_in
    vectors_MD = flatten(model, subset) + 0.1 * torch.randn(4, subset.num_params)
    found = {}
    for num_models, num_steps in ((2, 2), (4, 2), (2, 3)):
        with stand_in() as crossings:
            data = gather_labeled_images(
                Bytes(), Bytes(), Bytes(), num_classes=4, channels=3, image_size=16, colors=COLORS
            )
            task = Task(data, copy.deepcopy(model), subset, scoring=ScoringSpec(device=DEVICE))
            finetune(
                vectors_MD[:num_models],
                task,
                make_optimizer=partial(AdamW, lr=0.01),
                batch_size=BATCH,
                num_steps=num_steps,
                seed=0,
                states=[{}] * num_models,
            )
        found[num_models, num_steps] = crossings
    images_and_labels = 2
    assert found[4, 2] - found[2, 2] == {"to the device": images_and_labels * 2 * 2}
    assert found[2, 3] - found[2, 2] == {"to the device": images_and_labels * 2 * 1}
