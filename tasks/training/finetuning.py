"""The baseline of fine-tuned checkpoints, which are trained for a few more steps.

M models · B images in one batch · D numbers in one flattened subset.
"""

import copy
from collections.abc import Iterator
from itertools import count, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from core.checkpoints.subset import unflatten
from core.runtime.precision import set_float32_precision
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeOptimizer
from tasks.data.loaders import make_training_loader
from tasks.scoring.frozen_prefix import split_network
from tasks.task import Task


def repeat_epochs(loader: DataLoader) -> Iterator[list[Tensor]]:
    """Yield batches without end, in a different order at each epoch."""
    for epoch in count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # the sampler is an `EpochOrder`
        yield from loader


@set_float32_precision()
def finetune(
    vectors_MD: Tensor, task: Task, *, make_optimizer: MakeOptimizer, batch_size: int, num_steps: int, seed: int
) -> Tensor:
    """Return M vectors (M, D), each trained for `num_steps` more steps; `vectors_MD` itself does not change.

    Each model gets its own batches, because shared batches would correlate the results. Running statistics in the
    subset do not change, because they are not parameters. Matrix products are exact float32 on every device, as in
    scoring.

    Args:
        vectors_MD: The checkpoints to start from.
        task: The network, the subset and the images.
        make_optimizer: Builds the optimizer from the parameters of one model.
        batch_size: B, the number of images in one batch.
        num_steps: The number of optimizer steps.
        seed: The seed of the order and augmentation of the images.
    """
    loader = make_training_loader(
        task.data.train,
        batch_size,
        seed=derive_seed(seed, "finetuned"),
        num_workers=task.scoring.num_workers,
        device=task.device,
    )
    batches, normalize = repeat_epochs(loader), task.data.make_normalizer().to(task.device)
    tuned_MD = vectors_MD.to(task.device, copy=True)
    trained = [name for name, _ in task.model.named_parameters() if name in task.subset.names]
    network = None
    for tuned_D in tuned_MD:
        model = unflatten(tuned_D, task.subset)  # views into `tuned_MD`, so training writes into it
        optimizer = make_optimizer([model[name].requires_grad_() for name in trained])
        for images_BCSS, labels_B in islice(batches, num_steps):
            images_BCSS, labels_B = (part.to(task.device, non_blocking=True) for part in (images_BCSS, labels_B))
            images_BCSS = normalize(images_BCSS)
            network = network or split_network(copy_frozen(task.model, task.device), task.subset.names, images_BCSS)
            with torch.no_grad():
                crossing = network.cache(images_BCSS)
            loss = F.cross_entropy(network.logits(crossing, model), labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tuned_MD.cpu()


def copy_frozen(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy on `device` without gradients, because only the vectors that replace its subset are trained."""
    return copy.deepcopy(model).to(device).requires_grad_(False)
