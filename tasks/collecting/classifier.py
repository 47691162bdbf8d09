"""The classifier as a LightningModule, for training it and for fine-tuning its subset."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from core.checkpoints.subset import ParameterSubset, flatten
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeOptimizer, ReportingModule
from tasks.data.loaders import fixed_loader, training_loader
from tasks.data.splits import ImageData


class TrainingImages(LightningDataModule):
    """The loaders of a training, made anew in each of its processes."""

    def __init__(self, data: ImageData, batch_size: int, *, seed: int, num_workers: int | str = 0):
        super().__init__()
        self.data, self.batch_size, self.seed, self.num_workers = data, batch_size, seed, num_workers
        self.normalize = data.make_normalizer()

    def setup(self, stage: str) -> None:
        """Move the normalizer to where the batches are going."""
        self.normalize.to(self._device)

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalize on the device, so that images travel there as they are: a byte a color, not four."""
        images_BCSS, labels_B = batch
        return self.normalize(images_BCSS), labels_B

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches, beginning with the epoch that the training is in."""
        if self.trainer is None:  # `fit` asks for the number of batches before there is a Trainer
            return training_loader(self.data.train, self.batch_size, self.seed)
        return training_loader(
            self.data.train,
            self.batch_size,
            self.seed,
            num_workers=self.num_workers,
            device=self._device,
            # `current_epoch` lags behind it in a resumed fit.
            epoch=self.trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]  # of a subclass
        )

    def val_dataloader(self) -> DataLoader:
        """Return every validation image, in order."""
        return fixed_loader(
            self.data.val,
            self.batch_size,
            num_workers=self.num_workers,
            device=self._device,
            keep_workers=True,
        )


class Classifier(ReportingModule):
    """Cross-entropy training of `model`.

    Args:
        model: the network, trained in place.
        num_classes: of the images.
        make_optimizer: of the parameters that require gradients.
        make_scheduler: of the learning rate, stepped once per epoch; None keeps the rate constant.
        frozen_statistics: keep the whole network in eval mode, so that BatchNorm uses and keeps its running statistics.
        seed: every epoch reseeds from it and the rank, so that a resumed training equals an unbroken one, and processes
            that train together draw dropout masks of their own.
        history_of: record this subset at the start of each epoch and at the end, as `history_ED`.
        num_epochs: E, for the history.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        make_optimizer: MakeOptimizer,
        make_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        frozen_statistics: bool = False,
        seed: int = 0,
        history_of: ParameterSubset | None = None,
        num_epochs: int = 0,
    ):
        super().__init__()
        self.model, self.frozen_statistics, self.seed = model, frozen_statistics, seed
        self.make_optimizer, self.make_scheduler = make_optimizer, make_scheduler
        self.history_of = history_of
        if history_of is not None:  # a buffer, so that it survives an interruption
            self.register_buffer("history_ED", torch.zeros(num_epochs + 1, history_of.num_params))
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def train(self, mode: bool = True) -> "Classifier":
        """Stay in eval mode where the statistics are frozen, whatever the Trainer asks."""
        return super().train(mode and not self.frozen_statistics)

    def on_train_epoch_start(self) -> None:
        """Reseed for the epoch, and record the subset."""
        purpose = f"classifier/{self.global_rank}" if self.global_rank else "classifier"
        torch.manual_seed(derive_seed(self.seed, purpose, self.current_epoch))
        self._record(self.current_epoch)

    def on_train_end(self) -> None:
        """Record the subset a last time."""
        self._record(-1)

    def _record(self, epoch: int) -> None:
        if self.history_of is not None:
            self.get_buffer("history_ED")[epoch] = flatten(self.model, self.history_of)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of one batch."""
        images_BCSS, labels_B = batch
        loss = F.cross_entropy(self.model(images_BCSS), labels_B)
        self.report("classifier/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count the right predictions of one batch."""
        images_BCSS, labels_B = batch
        self.val_accuracy(self.model(images_BCSS), labels_B)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and the scheduler where there is one."""
        optimizer = self.make_optimizer([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}
