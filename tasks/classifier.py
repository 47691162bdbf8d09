"""The classifier as a LightningModule, for training it and for fine-tuning its subset."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchmetrics.classification import MulticlassAccuracy

from core.checkpoints.subset import ParameterSubset, flatten
from core.runtime.seeding import derive_seed

MakeOptimizer = Callable[[Iterable[Parameter]], Optimizer]


def training_loader(images: Dataset, batch_size: int, seed: int, num_workers: int = 0) -> DataLoader:
    """Shuffled batches whose order depends on `seed` and the epoch alone, so that a resumed training repeats none.

    Processes that train together share the images out; what cannot be shared evenly is left out of the epoch. What is left
    over at its end waits for the next: batch statistics of a few images are noise, of one an error.
    """
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    order = DistributedSampler(images, processes, rank, seed=derive_seed(seed, "order") % 2**31, drop_last=True)  # Lightning sets its epoch
    own = torch.Generator().manual_seed(derive_seed(seed, "workers", rank))  # else making an iterator would draw from the global one
    full = processes > 1 or len(images) >= batch_size
    return DataLoader(images, batch_size, sampler=order, num_workers=num_workers, drop_last=full, generator=own)


class TrainingImages(LightningDataModule):
    """The loaders of a training, made anew in each of its processes."""

    def __init__(self, train: Dataset, val: Dataset, batch_size: int, seed: int, num_workers: int = 0):
        super().__init__()
        self.train, self.val, self.batch_size, self.seed, self.num_workers = train, val, batch_size, seed, num_workers

    def train_dataloader(self) -> DataLoader:
        """See `training_loader`."""
        return training_loader(self.train, self.batch_size, self.seed, self.num_workers)

    def val_dataloader(self) -> DataLoader:
        """Every image, in order."""
        return DataLoader(self.val, self.batch_size, num_workers=self.num_workers)


class Classifier(LightningModule):
    """Cross-entropy training of `model`.

    Args:
        make_scheduler: of the learning rate, stepped once per epoch; None keeps the rate constant.
        frozen_statistics: keep the whole network in eval mode, so that BatchNorm uses and keeps its running statistics.
        seed: every epoch reseeds from it, so that an interrupted training goes on as if it had not been.
        history_of: record this subset at the start of each of `num_epochs` epochs and at the end, as `history_ED`.
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
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def train(self, mode: bool = True) -> "Classifier":
        """Stay in eval mode where the statistics are frozen, whatever the Trainer asks."""
        return super().train(mode and not self.frozen_statistics)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(derive_seed(self.seed, "classifier", self.current_epoch))
        self._record(self.current_epoch)

    def on_train_end(self) -> None:
        self._record(-1)

    def _record(self, epoch: int) -> None:
        if self.history_of is not None:
            self.history_ED[epoch] = flatten(self.model, self.history_of)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images_BCSS, labels_B = batch
        loss = F.cross_entropy(self.model(images_BCSS), labels_B)
        self.log("classifier/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images_BCSS, labels_B = batch
        self.val_accuracy(self.model(images_BCSS), labels_B)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make_optimizer([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        return {"optimizer": optimizer} | ({"lr_scheduler": self.make_scheduler(optimizer)} if self.make_scheduler else {})
