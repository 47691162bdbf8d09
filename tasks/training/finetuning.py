"""The fine-tuned sources: checkpoints whose training goes on for some more steps, at a learning rate that falls to 0.

M models · B images in one batch · D numbers in one flattened subset.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from functools import cache, partial
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.optimizer_state import OptimizerState
from core.checkpoints.subset import unflatten
from core.evaluation.kinds import FINETUNED, Kind
from core.evaluation.sources import Source, SourceOptions, choose_checkpoints
from core.runtime.precision import set_float32_precision
from core.runtime.seeding import derive_seed
from core.runtime.source_code import digest_code, locate
from core.runtime.trainer import MakeOptimizer
from tasks.collecting.collection import Optimization
from tasks.data.loaders import make_training_loader
from tasks.scoring.frozen_prefix import SplitNetwork, WholeNetwork, split_network
from tasks.task import Task

# Steps at rate 0 that accumulate the moments of the optimizer. Adam's first moment covers about 10 steps, and Adam
# corrects its second moment for the steps that it lacks.
MOMENT_STEPS = 50


def list_finetuned(
    task: Task, checkpoints: CheckpointSet, optimization: Optimization, options: SourceOptions, seed: int
) -> list[Source]:
    """Return one source for each number of steps in `options.finetune_steps`; none for 0 models.

    All of them start from the same checkpoints and from one state of the optimizer.

    Args:
        task: The network, the subset and the images.
        checkpoints: The checkpoints to start from, with the state of the optimizer if it was stored.
        optimization: The optimizer and the batch size with which the checkpoints were last trained.
        options: The number of models and of steps.
        seed: The seed of the run.
    """
    if options.num_finetuned == 0:
        return []
    make_optimizer, batch_size = optimization

    @cache
    def find_state() -> OptimizerState:
        if checkpoints.optimizer_state is not None:
            return checkpoints.optimizer_state
        return accumulate_moments(
            checkpoints.vectors_KD[-1], task, make_optimizer=make_optimizer, batch_size=batch_size, seed=seed
        )

    def make(num_steps: int) -> Tensor:
        starts_MD = choose_checkpoints(checkpoints.vectors_KD, options.num_finetuned, seed)
        return finetune(
            starts_MD,
            task,
            make_optimizer=make_optimizer,
            batch_size=batch_size,
            num_steps=num_steps,
            seed=seed,
            state=find_state(),
        )

    stored = checkpoints.optimizer_state is not None
    shared = 0 if stored else MOMENT_STEPS / options.num_finetuned
    return [
        Source(
            f"{FINETUNED}_{num_steps}",
            Kind.TRAINED,
            partial(make, num_steps),
            code=digest_code([locate(choose_checkpoints), locate(finetune), locate(accumulate_moments)]),
            settings={
                "optimizer": dict(make_optimizer.settings),
                "batch_size": batch_size,
                "moments": "stored" if stored else "accumulated",
            },
            num_models=options.num_finetuned,
            gradient_evaluations=num_steps + shared,
            training_images=num_steps * batch_size,
        )
        for num_steps in options.finetune_lengths
    ]


def repeat_epochs(loader: DataLoader) -> Iterator[list[Tensor]]:
    """Yield batches without end, in a different order at each epoch."""
    for epoch in count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # the sampler is an `EpochOrder`
        yield from loader


class SubsetTrainer:
    """The training of one vector after the other on a stream of batches, each model with batches of its own.

    Running statistics in the subset do not change, because they are not parameters.

    Args:
        task: The network, the subset and the images.
        batch_size: B, the number of images in one batch.
        seed: The seed of the order and augmentation of the images.
    """

    def __init__(self, task: Task, batch_size: int, seed: int):
        self.task = task
        self.network: SplitNetwork | WholeNetwork | None = None  # split at the first batch, which gives its shape
        loader = make_training_loader(
            task.data.train, batch_size, seed, num_workers=task.scoring.num_workers, device=task.device
        )
        self.batches = repeat_epochs(loader)
        self.normalize = task.data.make_normalizer().to(task.device)
        self.names = [name for name, _ in task.model.named_parameters() if name in task.subset.names]

    def start(self, vector_D: Tensor, make_optimizer: MakeOptimizer) -> tuple[Mapping[str, Tensor], Optimizer]:
        """Return views into `vector_D` by parameter, so that training writes into it, and their optimizer."""
        model = unflatten(vector_D, self.task.subset)
        return model, make_optimizer([model[name].requires_grad_() for name in self.names])

    def step(self, model: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """Make one optimizer step on the next batch."""
        images_BCSS, labels_B = (part.to(self.task.device, non_blocking=True) for part in next(self.batches))
        images_BCSS = self.normalize(images_BCSS)
        self.network = self.network or self._split(images_BCSS)
        with torch.no_grad():
            crossing = self.network.cache(images_BCSS)
        loss = F.cross_entropy(self.network.logits(crossing, model), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def _split(self, images_BCSS: Tensor) -> SplitNetwork | WholeNetwork:
        return split_network(copy_frozen(self.task.model, self.task.device), self.task.subset.names, images_BCSS)


@set_float32_precision()
def finetune(
    vectors_MD: Tensor,
    task: Task,
    *,
    make_optimizer: MakeOptimizer,
    batch_size: int,
    num_steps: int,
    seed: int,
    state: OptimizerState,
) -> Tensor:
    """Return M vectors (M, D), each trained for `num_steps` more steps; `vectors_MD` itself does not change.

    Each model continues with its own copy of `state` and gets its own batches, because shared batches would correlate
    the results. A fresh Adam would begin with steps of the full rate in each coordinate, which throw a trained model
    back. The learning rate falls to 0 along a half cosine, because the noise of steps at the full rate costs accuracy.
    Matrix products are exact float32 on every device, as in scoring.

    Args:
        vectors_MD: The checkpoints to start from.
        task: The network, the subset and the images.
        make_optimizer: Builds the optimizer from the parameters of one model.
        batch_size: B, the number of images in one batch.
        num_steps: The number of optimizer steps.
        seed: The seed of the order and augmentation of the images.
        state: The state of the optimizer, by the names of the parameters; an empty one starts a fresh optimizer.
    """
    trainer = SubsetTrainer(task, batch_size, derive_seed(seed, FINETUNED))
    tuned_MD = vectors_MD.to(task.device, copy=True)
    for tuned_D in tuned_MD:
        model, optimizer = trainer.start(tuned_D, make_optimizer)
        load_state(optimizer, [state.get(name, {}) for name in trainer.names])
        rate = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / num_steps)))
        for _ in range(num_steps):
            trainer.step(model, optimizer)
            rate.step()
    return tuned_MD.cpu()


@set_float32_precision()
def accumulate_moments(
    vector_D: Tensor, task: Task, *, make_optimizer: MakeOptimizer, batch_size: int, seed: int
) -> OptimizerState:
    """Return the state that the optimizer reaches at `vector_D` in some steps at rate 0, which leave it where it is.

    It stands in for the state at the end of the training that made the vector, if this state was not stored.
    """
    trainer = SubsetTrainer(task, batch_size, derive_seed(seed, f"{FINETUNED}/moments"))
    model, optimizer = trainer.start(vector_D.to(task.device, copy=True), make_optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for _ in range(MOMENT_STEPS):
        trainer.step(model, optimizer)
    return {
        name: {key: value for key, value in optimizer.state[model[name]].items() if isinstance(value, Tensor)}
        for name in trainer.names
    }


def load_state(optimizer: Optimizer, states: list[Mapping[str, Tensor]]) -> None:
    """Give an optimizer a copy of the state of each of its parameters; an empty state is left out."""
    copies = {
        index: {key: value.clone() for key, value in state.items()} for index, state in enumerate(states) if state
    }
    optimizer.load_state_dict({"state": copies, "param_groups": optimizer.state_dict()["param_groups"]})


def copy_frozen(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy on `device` without gradients, because only the vectors that replace its subset are trained."""
    return copy.deepcopy(model).to(device).requires_grad_(False)
