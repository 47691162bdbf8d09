"""The exponential moving average of the weights, kept on the device that trains."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class OnDeviceAverage(AveragedModel):
    """Average of a model's weights, updated without a copy between host and device.

    torch's own update asks a counter on the device for its value at every step, which waits for the device.
    """

    def __init__(self, model: nn.Module, device: torch.device, decay: float):
        super().__init__(model)
        self.module.to(device)  # without `n_averaged`, which stays on the CPU, where reading it is free
        self.decay = decay
        self._pairs: list[tuple[Tensor, Tensor]] | None = None  # (average, weight)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`; the first update copies them, and counters always are."""
        if self._pairs is None:  # looked up once: names are many, and steps are short
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
    """Lightning's callback over an `OnDeviceAverage`: saves, resumes, and ends with the average in the module.

    Lightning would leave the average on the CPU, where the module still is when a fit begins, and would copy every
    weight at every step.
    """

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the average on the device that the module is about to be moved to."""
        if stage == "fit":
            self._average_model = OnDeviceAverage(pl_module, trainer.strategy.root_device, self.decay)
