"""The strongest simple baseline: originals trained on for some more steps.

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
from core.runtime.precision import float32_products
from core.runtime.seeding import derive_seed
from core.runtime.trainer import MakeOptimizer
from tasks.data.loaders import training_loader
from tasks.scoring.frozen_prefix import split_network
from tasks.task import Task


def shuffle_without_end(loader: DataLoader) -> Iterator[list[Tensor]]:
    """Yield batches without end, each epoch in an order of its own."""
    for epoch in count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # an `EpochOrder`
        yield from loader


@float32_products()
def finetune(
    vectors_MD: Tensor, task: Task, *, make_optimizer: MakeOptimizer, batch_size: int, num_steps: int, seed: int
) -> Tensor:
    """Train each of M vectors on for `num_steps` and return them (M, D); the given ones stay as they are.

    Each model goes on with batches of its own; shared ones would correlate the results. Running statistics in the
    subset are no parameters: they stay as they are. Products are exact float32 on every device, as in scoring.
    """
    loader = training_loader(
        task.data.train,
        batch_size,
        seed=derive_seed(seed, "finetuned"),
        num_workers=task.scoring.num_workers,
        device=task.device,
    )
    batches, normalize = shuffle_without_end(loader), task.data.make_normalizer().to(task.device)
    tuned_MD = vectors_MD.to(task.device, copy=True)
    trained = [name for name, _ in task.model.named_parameters() if name in task.subset.names]  # not running statistics
    network = None
    for tuned_D in tuned_MD:
        model = unflatten(tuned_D, task.subset)  # views, so that training writes into `tuned_MD`
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
    """Return a copy on `device` without gradients: only the vectors are trained, which stand in for its subset."""
    return copy.deepcopy(model).to(device).requires_grad_(False)
