"""Stage one: the parameter autoencoder.

K checkpoints · B batch · D numbers in one flattened subset.
"""

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from core.training.stepped_module import SteppedModule


class AutoencoderModule(SteppedModule):
    """Reconstruct normalized vectors through noise (p-diff, Eq. 3–4): the target is the clean vector."""

    def __init__(self, autoencoder: nn.Module, vectors_KD: Tensor, **options: Any):
        super().__init__(vectors_KD, stage="autoencoder", **options)
        self.autoencoder = autoencoder

    def loss(self, rows_B: Tensor) -> Tensor:
        return F.mse_loss(self.autoencoder(rows_B), rows_B)

    def trained_parameters(self) -> Iterable[Parameter]:
        return self.autoencoder.parameters()
