"""The average of the weights equals Lightning's own, and stays where the training is."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch.optim import AdamW

from core.diffusion.gaussian_diffusion import NoiseSchedule
from core.networks.denoiser import ConvDenoiser
from core.runtime.trainer import fit
from core.training.stage_modules import LatentDiffusionModule
from core.training.weight_average import WeightAverage
from tests.core.tiny import cpu_trainer
from tests.device_stand_in import DEVICE, stand_in, stand_in_trainer


def fitted(folder, average, make_trainer):
    torch.manual_seed(1)
    denoiser, latents_KL = ConvDenoiser(6, channels=(4, 8, 4, 1), kernel_size=3), torch.randn(9, 6)
    module = LatentDiffusionModule(
        denoiser,
        NoiseSchedule(50),
        latents_KL,
        make_optimizer=partial(AdamW, lr=1e-2),
        num_steps=7,
        batch_size=4,
        seed=0,
    )
    fit(module, name="diffusion", state_dir=folder / "state", make_trainer=make_trainer, callbacks=[average])
    return module.state_dict()


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_average_equals_lightnings(tmp_path, decay):
    ours = fitted(tmp_path / "ours", WeightAverage(decay), cpu_trainer())
    reference = fitted(tmp_path / "reference", EMAWeightAveraging(decay=decay), cpu_trainer())
    assert ours.keys() == reference.keys()
    for name, tensor in ours.items():
        if tensor.is_floating_point():  # a number of batches is counted, not averaged
            torch.testing.assert_close(tensor, reference[name], rtol=1e-5, atol=1e-6)


class WhereIsTheAverage(Callback):
    def __init__(self, average):
        self.average = average

    def on_train_batch_start(self, *_):
        self.devices = {tensor.device for tensor in self.average._average_model.module.state_dict().values()}


def test_the_average_is_on_the_device_that_trains(tmp_path):
    average = WeightAverage(0.9)
    watch = WhereIsTheAverage(average)
    with stand_in():
        fitted(
            tmp_path,
            average,
            lambda *, callbacks, **options: stand_in_trainer(callbacks=[watch, *callbacks], **options),
        )
    assert watch.devices == {DEVICE}
