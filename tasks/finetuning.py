"""The strongest simple baseline: originals trained on for some more steps.

M models · B images in one batch · D numbers in one flattened subset.
"""

from collections.abc import Iterator
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from core.checkpoints.subset import unflatten
from core.runtime.seeding import derive_seed
from tasks.classifier import MakeOptimizer, training_loader
from tasks.frozen_prefix import split_network
from tasks.task import Task


def shuffled(loader: DataLoader) -> Iterator[list[Tensor]]:
    """Batches without end, each epoch in an order of its own."""
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        yield from loader


def finetune(vectors_MD: Tensor, task: Task, *, make_optimizer: MakeOptimizer, batch_size: int, num_steps: int, seed: int) -> Tensor:
    """Train each of M vectors on for `num_steps`, as they were last trained; (M, D), the given ones stay as they are.

    All models see the same batches, so the frozen prefix of a batch is computed once for all of them. Running statistics
    in the subset are no parameters: they stay as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "finetuned"))
        batches = shuffled(training_loader(task.data.train, batch_size, derive_seed(seed, "finetuned"), task.options.get("num_workers", 0)))
        tuned_MD = vectors_MD.to(task.device, copy=True)
        models = [unflatten(vector_D, task.subset) for vector_D in tuned_MD]  # views, so that training writes into `tuned_MD`
        trained = [name for name, _ in task.model.named_parameters() if name in task.subset.names]  # not running statistics
        optimizers = [make_optimizer([model[name].requires_grad_() for name in trained]) for model in models]
        network = None
        for _, (images_BCSS, labels_B) in zip(range(num_steps), batches):
            images_BCSS, labels_B = images_BCSS.to(task.device), labels_B.to(task.device)
            network = network or split_network(task.model, task.subset.names, images_BCSS)
            with torch.no_grad():
                crossing = network.cache(images_BCSS)
            for model, optimizer in zip(models, optimizers):
                loss = F.cross_entropy(network.logits(crossing, model), labels_B)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return tuned_MD.cpu()
