"""What both stages share: data that lives on the device, and a step that depends on nothing but its number.

K checkpoints · B batch.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from core.runtime.errors import UserError
from core.runtime.seeding import derive_seed, reseed
from core.runtime.trainer import ReportingModule

MakeOptimizer = Callable[[Iterable[Parameter]], Optimizer]


class SteppedModule(ReportingModule):
    """Training by a fixed number of steps over K rows held in memory; the learning rate falls along a cosine.

    Every step reseeds from (seed, stage, step), so that a resumed run equals an unbroken one (EDM2's habit), and
    draws its batch itself, so that no loader stands between the data and the device.

    Args:
        rows_K: the data, shape (K, …).
        stage: names the stage in logs and seeds.
        compile_mode: of `torch.compile` for the loss ("default"; "reduce-overhead" uses CUDA graphs); None runs it as it is.
    """

    def __init__(
        self,
        rows_K: Tensor,
        *,
        stage: str,
        make_optimizer: MakeOptimizer,
        num_steps: int,
        batch_size: int,
        seed: int,
        compile_mode: str | None = None,
    ):
        super().__init__()
        if num_steps < 1 or batch_size < 2:
            raise UserError(
                f"{stage}: num_steps={num_steps} and batch_size={batch_size}; expected at least 1 step and batches of at least 2"
            )
        self.register_buffer("rows_K", rows_K, persistent=False)
        self.stage, self.make_optimizer, self.num_steps, self.batch_size, self.seed = (
            stage,
            make_optimizer,
            num_steps,
            batch_size,
            seed,
        )
        self.compiled_loss = torch.compile(self.loss, mode=compile_mode) if compile_mode else None

    def loss(self, rows_B: Tensor) -> Tensor:
        """The objective on one batch."""
        raise NotImplementedError

    def batch_loss(self, rows_B: Tensor) -> Tensor:
        """`loss`, compiled where that was asked for."""
        return (self.compiled_loss or self.loss)(rows_B)

    def trained_parameters(self) -> Iterable[Parameter]:
        """What the optimizer moves."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader:
        """Step numbers: the batch itself is drawn on the device."""
        return DataLoader(range(self.num_steps), batch_size=None)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        reseed(derive_seed(self.seed, self.stage, self.global_step), self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows = torch.randperm(len(self.rows_K), device=self.device)[: self.batch_size]
        loss = self.batch_loss(self.rows_K[rows])
        self.report(f"{self.stage}/loss", loss)
        return loss

    def on_train_end(self) -> None:
        for name, tensor in self.state_dict().items():
            if not torch.isfinite(tensor).all():  # the last steps may have led there, and it must not count as finished
                raise UserError(
                    f"{self.stage}: {name} is not finite after {self.global_step} steps; try a smaller learning rate"
                )

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make_optimizer(self.trained_parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": CosineAnnealingLR(optimizer, T_max=self.num_steps), "interval": "step"},
        }
