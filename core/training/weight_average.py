"""The exponential moving average (EMA) of the weights, kept on the device of the training."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class OnDeviceAverage(AveragedModel):
    """The average w̄ of a model's weights w, updated as w̄ ← decay · w̄ + (1 − decay) · w after each step.

    The update never copies between host and device. torch's own update reads a counter on the device at every step,
    and each read waits for the device.
    """

    def __init__(self, model: nn.Module, device: torch.device, decay: float):
        super().__init__(model)
        self.module.to(device)  # `n_averaged` stays on the CPU, where reading it does not wait for the device
        self.decay = decay
        self._pairs: list[tuple[Tensor, Tensor]] | None = None  # (average, weight)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the weights of `model`.

        BatchNorm statistics are averaged like weights. Integers, such as BatchNorm's count of batches, are copied, and
        the first update copies everything.
        """
        if self._pairs is None:  # looked up once, because looking up many names takes long compared with a step
            current = model.state_dict(keep_vars=True)
            self._pairs = [(average, current[name]) for name, average in self.module.state_dict(keep_vars=True).items()]
            self._floats = [pair for pair in self._pairs if pair[0].is_floating_point()]
            self._counters = [pair for pair in self._pairs if not pair[0].is_floating_point()]
        first = self.n_averaged == 0
        if not first:
            averages, weights = zip(*self._floats, strict=True)
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
        for average, weight in self._pairs if first else self._counters:
            average.copy_(weight)
        self.n_averaged += 1


class WeightAverage(WeightAveraging):
    """Lightning's weight averaging with an `OnDeviceAverage`.

    As in Lightning's callback, training states hold the average, and the module ends up with the averaged weights.
    Lightning itself would build the average on the CPU, where the module still is before a fit, and copy all weights
    to the CPU at every step.
    """

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the average on the device that the module will be trained on."""
        if stage == "fit":
            self._average_model = OnDeviceAverage(pl_module, trainer.strategy.root_device, self.decay)
