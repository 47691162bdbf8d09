"""Stage one: the parameter autoencoder.

K checkpoints · B batch · D numbers in one flattened subset.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from core.checkpoints.normalizer import Normalizer
from core.training.stepped_module import SteppedModule


class AutoencoderModule(SteppedModule):
    """Reconstruct normalized vectors through noise (p-diff, Eq. 3–4): the target is the clean vector.

    Args:
        rows_K: what the autoencoder's `training_loss` takes, or the vectors (K, D) that become it once normalized.
        normalizer: applied to every batch, so that a memory-mapped K × D is never copied as a whole; None where the
            rows are ready.
    """

    def __init__(self, autoencoder: nn.Module, rows_K: Tensor, normalizer: Normalizer | None = None, **options: Any):
        super().__init__(rows_K, stage="autoencoder", **options)
        self.autoencoder, self.normalizer = autoencoder, normalizer

    def loss(self, rows_B: Tensor) -> Tensor:
        return self.autoencoder.training_loss(self.normalizer.normalize(rows_B) if self.normalizer else rows_B)

    def trained_parameters(self) -> Iterable[Parameter]:
        return self.autoencoder.parameters()
