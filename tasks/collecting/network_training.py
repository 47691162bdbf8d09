"""The training of a network on the objective of its data, of the whole network or of its parameter subset alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from core.checkpoints.subset import ParameterSubset, flatten
from core.runtime.reporting_module import ReportingModule
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeOptimizer
from tasks.data.loaders import make_fixed_loader, make_training_loader
from tasks.data.splits import TaskData
from tasks.objectives.objective import Objective, ScoreCounter, add_model_axis


class TrainingItems(LightningDataModule):
    """Training and validation loaders; each training process builds its own.

    Args:
        data: The items.
        batch_size: The number of items in one batch.
        seed: The seed of the order and of the augmentations.
        num_workers: The number of processes that read items, or "auto".
        num_steps: Yield this number of training batches in one pass, which may begin at any step when it is resumed.
            None yields one epoch in a pass.
    """

    def __init__(
        self,
        data: TaskData,
        batch_size: int,
        *,
        seed: int,
        num_workers: int | str = 0,
        num_steps: int | None = None,
    ):
        super().__init__()
        self.data, self.batch_size, self.seed, self.num_workers = data, batch_size, seed, num_workers
        self.num_steps = num_steps
        self.normalize = data.make_normalizer()

    def setup(self, stage: str) -> None:
        """Move the normalizer to the training device."""
        self.normalize.to(self._device)

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    def on_after_batch_transfer(self, batch: tuple[Any, Any], dataloader_idx: int) -> tuple[Any, Any]:
        """Prepare a batch on the device; images are transferred there as bytes, a quarter of the size of float32."""
        inputs, targets = batch
        return self.normalize(inputs), targets

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches, starting with the current epoch."""
        if self.trainer is None:  # `fit` asks for the number of batches before a Trainer exists
            return make_training_loader(
                self.data.train, self.batch_size, self.seed, num_steps=self.num_steps, collate=self.data.collate
            )
        return make_training_loader(
            self.data.train,
            self.batch_size,
            self.seed,
            num_workers=self.num_workers,
            device=self._device,
            # In a resumed fit, `trainer.current_epoch` is one epoch behind this counter.
            epoch=self.trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
            num_steps=self.num_steps,
            first_step=self.trainer.global_step,
            collate=self.data.collate,
        )

    def val_dataloader(self) -> DataLoader:
        """Return every validation item, in order."""
        return make_fixed_loader(
            self.data.val,
            self.batch_size,
            num_workers=self.num_workers,
            device=self._device,
            keep_workers=True,
            collate=self.data.collate,
        )


class NetworkTraining(ReportingModule):
    """Training of `model` on an objective.

    Args:
        model: The network, trained in place.
        objective: What the network learns.
        make_optimizer: Builds the optimizer from the parameters that require gradients.
        make_scheduler: Builds the learning-rate scheduler, stepped once per epoch; None keeps the rate constant.
        warmup_steps: W, the optimizer steps in which the learning rate rises linearly from 0 to that of the schedule.
        train_only: The names of the modules of `model` that are in training mode, without the modules inside them. All
            others stay in eval mode, in which BatchNorm uses its running statistics and does not update them. None
            trains the whole network in training mode.
        seed: The seed that reseeds torch at the start of every epoch, together with the epoch and the rank. A resumed
            training therefore equals an uninterrupted one, and each of several training processes draws its own dropout
            masks.
        history_subset: The parameters to record in `history_ED` at the start of each epoch and at the end of training;
            None records nothing.
        num_epochs: E, the number of epochs to allocate the history for.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        make_optimizer: MakeOptimizer,
        make_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        warmup_steps: int | None = None,
        train_only: Sequence[str] | None = None,
        seed: int = 0,
        history_subset: ParameterSubset | None = None,
        num_epochs: int = 0,
    ):
        super().__init__()
        self.model, self.objective, self.train_only, self.seed = model, objective, train_only, seed
        self.make_optimizer, self.make_scheduler = make_optimizer, make_scheduler
        self.warmup_steps = warmup_steps
        self.history_subset = history_subset
        if history_subset is not None:  # a buffer is saved with the training state, so a resumed fit keeps it
            self.register_buffer("history_ED", torch.zeros(num_epochs + 1, history_subset.num_params))
        self.counter: ScoreCounter | None = None  # of the current pass over the validation items

    def train(self, mode: bool = True) -> "NetworkTraining":
        """Set the training mode; modules outside of `train_only` stay in eval mode even if the Trainer asks."""
        super().train(mode and self.train_only is None)
        for name in self.train_only or ():
            self.model.get_submodule(name).training = mode
        return self

    def on_train_epoch_start(self) -> None:
        """Reseed for the epoch, and record the subset's values."""
        purpose = f"classifier/{self.global_rank}" if self.global_rank else "classifier"
        torch.manual_seed(derive_seed(self.seed, purpose, self.current_epoch))
        self._record(self.current_epoch)

    def on_train_end(self) -> None:
        """Record the subset's final values."""
        self._record(-1)

    def _record(self, epoch: int) -> None:
        if self.history_subset is not None:
            self.get_buffer("history_ED")[epoch] = flatten(self.model, self.history_subset)

    def training_step(self, batch: tuple[Any, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        loss = self.objective.compute_loss(self.model, *batch)
        self.report("task/loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start a new count."""
        self.counter = self.objective.count_scores(1, self.device)

    def validation_step(self, batch: tuple[Any, Any], batch_idx: int) -> None:
        """Add one batch to the count."""
        assert self.counter is not None
        inputs, targets = batch
        predictions = add_model_axis(self.objective.predict(self.model, inputs))
        self.counter.add([(slice(0, 1), predictions)], targets)

    def on_validation_epoch_end(self) -> None:
        """Log the primary metric; of several processes, each of which has a part of the items, the mean."""
        assert self.counter is not None
        value = torch.tensor(self.counter.finish().accuracy_M[0], device=self.device, dtype=torch.float32)
        self.log(f"val/{self.objective.metric.name}", value, prog_bar=True, sync_dist=True)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Make one step of the optimizer; during the warm-up, with only a share of the scheduler's learning rate.

        The scheduler's rate is restored after the step, because many schedulers compute the next rate from it.
        """
        rates = [group["lr"] for group in optimizer.param_groups]
        share = min(1.0, (self.global_step + 1) / (self.warmup_steps or 1))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = share * rate
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and the learning-rate scheduler if there is one."""
        optimizer = self.make_optimizer([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}
