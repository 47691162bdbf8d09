"""The averaged weights equal Lightning's averaged weights, and stay on the device of the training."""

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging

from core.runtime.trainer import fit
from core.training.weight_average import WeightAverage
from tests.core.tiny import cpu_trainer, make_diffusion_module
from tests.device_stand_in import DEVICE, stand_in, stand_in_trainer


def fit_with_average(average, folder, make_trainer):
    """Fit a diffusion stage for 7 steps and return its averaged state."""
    module = make_diffusion_module(num_steps=7)
    fit(module, name="diffusion", state_dir=folder / "state", make_trainer=make_trainer, callbacks=[average])
    return module.state_dict()


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_average_equals_that_of_lightning(tmp_path, decay):
    ours = fit_with_average(WeightAverage(decay), tmp_path / "ours", cpu_trainer())
    reference = fit_with_average(EMAWeightAveraging(decay=decay), tmp_path / "reference", cpu_trainer())
    assert ours.keys() == reference.keys()
    for name, tensor in ours.items():
        if tensor.is_floating_point():  # integers count batches, and are not averaged
            torch.testing.assert_close(tensor, reference[name], rtol=1e-5, atol=1e-6)


class RecordDevices(Callback):
    """A callback that records the devices of the averaged weights at the last step."""

    def __init__(self, average):
        self.average = average

    def on_train_batch_start(self, *_):
        self.devices = {tensor.device for tensor in self.average._average_model.module.state_dict().values()}


def test_the_average_is_on_the_device_that_trains(tmp_path):
    average = WeightAverage(0.9)
    record = RecordDevices(average)
    with stand_in():
        fit_with_average(
            average,
            tmp_path,
            lambda *, callbacks, **options: stand_in_trainer(callbacks=[record, *callbacks], **options),
        )
    assert record.devices == {DEVICE}
