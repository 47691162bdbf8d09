"""The fine-tuned sources: checkpoints whose training goes on for some more steps, at a learning rate that falls to 0.

M models · B images in one batch · D numbers in one flattened subset.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.optimizer_state import OptimizerState, copy_optimizer_state
from core.checkpoints.subset import unflatten
from core.evaluation.kinds import FINETUNED, Kind
from core.evaluation.sources import Source, SourceOptions, choose_checkpoints, have_order
from core.runtime.precision import set_float32_precision
from core.runtime.seeding import derive_seed, reseed
from core.runtime.source_code import digest_code, locate
from core.runtime.trainer import MakeOptimizer
from tasks.collecting.collection import Optimization
from tasks.collecting.steps import find_owners_of_statistics
from tasks.data.loaders import make_training_loader
from tasks.scoring.frozen_prefix import SplitNetwork, WholeNetwork, split_network
from tasks.task import Task

# Steps at rate 0 that accumulate the moments of the optimizer. Adam's first moment covers about 10 steps, and Adam
# corrects its second moment for the steps that it lacks.
MOMENT_STEPS = 50
# Share of the initial learning rate at which finished trainings go on. Their rate has usually fallen to about 0, so the
# initial rate would throw them back.
RESTART = 0.1


def list_finetuned(
    task: Task, checkpoints: CheckpointSet, optimization: Optimization, options: SourceOptions, seed: int
) -> list[Source]:
    """Return one source for each number of steps in `options.finetune_steps`; none for 0 models.

    All of them start from the same checkpoints. Successive steps of one training go on at the rate and with the
    optimizer state of this training. If no state was stored, its moments are accumulated once, at the last checkpoint.
    All other checkpoints, such as independent networks and imported ones, count as ends of trainings of their own. Each
    of them accumulates its own moments, because a coordinate means something else in every network, and goes on at
    `RESTART` times the initial rate.

    Args:
        task: The network, the subset and the images.
        checkpoints: The checkpoints to start from, with the state of the optimizer if it was stored.
        optimization: The optimizer and the batch size with which the checkpoints were last trained. For imported
            checkpoints, these are the settings of `task.collect`.
        options: The number of models and of steps.
        seed: The seed of the run.
    """
    if options.num_finetuned == 0:
        return []
    make_optimizer, batch_size = optimization
    stored, one_training = checkpoints.optimizer_state, have_order(checkpoints)
    share = 1.0 if one_training else RESTART

    def choose_starts() -> Tensor:
        return choose_checkpoints(checkpoints.vectors_KD, options.num_finetuned, seed)

    @cache
    def find_states() -> list[OptimizerState]:
        if stored is not None:
            return [stored] * options.num_finetuned
        vectors_SD = checkpoints.vectors_KD[-1:] if one_training else choose_starts()
        states = accumulate_moments(vectors_SD, task, make_optimizer=make_optimizer, batch_size=batch_size, seed=seed)
        return states * options.num_finetuned if one_training else states

    def make(num_steps: int) -> Tensor:
        return finetune(
            choose_starts(),
            task,
            make_optimizer=make_optimizer,
            batch_size=batch_size,
            num_steps=num_steps,
            seed=seed,
            states=find_states(),
            share=share,
        )

    moment_steps = MOMENT_STEPS / options.num_finetuned if one_training else MOMENT_STEPS
    moment_steps = moment_steps if stored is None else 0
    return [
        Source(
            f"{FINETUNED}_{num_steps}",
            Kind.TRAINED,
            partial(make, num_steps),
            code=digest_code([locate(choose_checkpoints), locate(finetune), locate(accumulate_moments)]),
            settings={
                "optimizer": dict(make_optimizer.settings),
                "batch_size": batch_size,
                "moments": "accumulated" if stored is None else "stored",
                "one_training": one_training,
                "share": share,
            },
            num_models=options.num_finetuned,
            gradient_evaluations=num_steps + moment_steps,
            training_images=round((num_steps + moment_steps) * batch_size),
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

    The layers that own a running statistic of the subset are in training mode, as they are while checkpoints are
    collected, so these statistics follow the batches. All other layers are in eval mode.

    Args:
        task: The network, the subset and the images.
        batch_size: B, the number of images in one batch.
        seed: The seed of the order and augmentation of the images.
    """

    def __init__(self, task: Task, batch_size: int, seed: int):
        self.task, self.seed, self.num_steps = task, seed, 0
        self.network: SplitNetwork | WholeNetwork | None = None  # split at the first batch, which gives its shape
        loader = make_training_loader(
            task.data.train,
            batch_size,
            seed,
            num_workers=task.scoring.num_workers,
            device=task.device,
            collate=task.data.collate,
        )
        self.batches = repeat_epochs(loader)
        self.normalize = task.data.make_normalizer().to(task.device)
        self.names = [name for name, _ in task.model.named_parameters() if name in task.subset.names]
        self.statistics = [name for name, _ in task.model.named_buffers() if name in task.subset.names]

    def start(self, vector_D: Tensor, make_optimizer: MakeOptimizer) -> tuple[Mapping[str, Tensor], Optimizer]:
        """Return views into `vector_D` by parameter, so that training writes into it, and their optimizer."""
        model = unflatten(vector_D, self.task.subset)
        return model, make_optimizer([model[name].requires_grad_() for name in self.names])

    def step(self, model: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """Make one optimizer step on the next batch."""
        # Some networks draw random numbers even in eval mode, as Faster R-CNN does to choose boxes for its loss.
        reseed(derive_seed(self.seed, "step", self.num_steps), self.task.device)
        self.num_steps += 1
        inputs, targets = tree_map_only(Tensor, self._to_device, next(self.batches))
        inputs = self.normalize(inputs)
        network = self.network = self.network or self._split(inputs)
        # BatchNorm updates statistics in place, which autograd forbids for views that share memory with the parameters.
        statistics = {name: model[name].clone() for name in self.statistics}

        def run_model(*inputs: Any) -> Any:
            with torch.no_grad():
                crossing = network.cache(*inputs)
            return network.run(crossing, {**model, **statistics})

        loss = self.task.data.objective.compute_loss(run_model, inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, statistic in statistics.items():
            model[name].copy_(statistic)

    def _to_device(self, part: Tensor) -> Tensor:
        return part.to(self.task.device, non_blocking=True)

    def _split(self, inputs_B: Tensor) -> SplitNetwork | WholeNetwork:
        model = copy_frozen(self.task.model, self.task.device)
        if not self.statistics:
            return split_network(model, self.task.subset.names, inputs_B)
        for name in find_owners_of_statistics(model, self.task.subset):
            model.get_submodule(name).training = True
        return WholeNetwork(model)  # a traced graph has no training mode


@set_float32_precision()
def finetune(
    vectors_MD: Tensor,
    task: Task,
    *,
    make_optimizer: MakeOptimizer,
    batch_size: int,
    num_steps: int,
    seed: int,
    states: Sequence[OptimizerState],
    share: float = 1.0,
) -> Tensor:
    """Return M vectors (M, D), each trained for `num_steps` more steps; `vectors_MD` itself does not change.

    Each model gets its own batches, because shared batches would correlate the results. A fresh Adam would begin with
    steps of the full rate in each coordinate, which throw a trained model back. The learning rate falls to 0 along a
    half cosine, because the noise of steps at the full rate costs accuracy. Matrix products are exact float32 on every
    device, as in scoring.

    Args:
        vectors_MD: The checkpoints to start from.
        task: The network, the subset and the images.
        make_optimizer: Builds the optimizer from the parameters of one model.
        batch_size: B, the number of images in one batch.
        num_steps: The number of optimizer steps.
        seed: The seed of the order and augmentation of the images.
        states: For each model the state of the optimizer, of which it changes a copy. An empty one starts a fresh
            optimizer.
        share: The learning rate of the first step, relative to that of `make_optimizer`.
    """
    trainer = SubsetTrainer(task, batch_size, derive_seed(seed, FINETUNED))
    tuned_MD = vectors_MD.to(task.device, copy=True)
    for tuned_D, state in zip(tuned_MD, states, strict=True):
        model, optimizer = trainer.start(tuned_D, make_optimizer)
        load_state(optimizer, [state.get(name, {}) for name in trainer.names])
        rate = LambdaLR(optimizer, lambda step: share * 0.5 * (1 + math.cos(math.pi * step / num_steps)))
        for _ in range(num_steps):
            trainer.step(model, optimizer)
            rate.step()
    return tuned_MD.cpu()


@set_float32_precision()
def accumulate_moments(
    vectors_SD: Tensor, task: Task, *, make_optimizer: MakeOptimizer, batch_size: int, seed: int
) -> list[OptimizerState]:
    """Return the state that the optimizer reaches at each of S vectors in some steps at rate 0, which do not move it.

    It stands in for the state at the end of the training that made the vector, if this state was not stored.
    """
    trainer = SubsetTrainer(task, batch_size, derive_seed(seed, f"{FINETUNED}/moments"))
    states: list[OptimizerState] = []
    for vector_D in vectors_SD.to(task.device, copy=True):
        model, optimizer = trainer.start(vector_D, make_optimizer)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        for _ in range(MOMENT_STEPS):
            trainer.step(model, optimizer)
        states.append(copy_optimizer_state(optimizer, ((name, model[name]) for name in trainer.names)))
    return states


def load_state(optimizer: Optimizer, states: list[Mapping[str, Tensor]]) -> None:
    """Give an optimizer a copy of the state of each of its parameters; an empty state is left out."""
    copies = {
        index: {key: value.clone() for key, value in state.items()} for index, state in enumerate(states) if state
    }
    optimizer.load_state_dict({"state": copies, "param_groups": optimizer.state_dict()["param_groups"]})


def copy_frozen(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy on `device` without gradients, because only the vectors that replace its subset are trained."""
    return copy.deepcopy(model).to(device).requires_grad_(False)
