"""The Laplace posterior of the generated parameters around the last checkpoint, made with the library laplace-torch.

M models · n images · P trained parameters of the subset · D numbers in one flattened subset.
"""

import math
import warnings
from functools import cached_property, partial
from typing import Any

import torch
from laplace import DiagLaplace, FullLaplace
from laplace.curvature import GGNInterface
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from torch.utils.data import DataLoader, TensorDataset

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import find_columns, unflatten
from core.evaluation.kinds import LAPLACE, Kind
from core.evaluation.scores import ScoreFn
from core.evaluation.sources import Source, SourceOptions, UnavailableSource
from core.runtime.precision import set_float32_precision
from core.runtime.seeding import derive_seed
from core.runtime.source_code import digest_code, locate
from tasks.data.loaders import count_images
from tasks.data.splits import draw_fixed_sample
from tasks.objectives.classification import Classification
from tasks.task import Task
from tasks.training.finetuning import copy_frozen

MOST_FULL = 4_096  # parameters of a full posterior; the curvature of 2,048 takes about 6 s on one CPU core
# The curvature needs one gradient for each image and class. These limits on its time decide the number of images.
MOST_IMAGES, MOST_GRADIENTS, MOST_NUMBERS = 1_000, 20_000, 1e9
IMAGES_AT_ONCE, NUMBERS_AT_ONCE = 64, 5e7  # limits on the memory of the gradients
FACTORS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)  # prior precisions that are tried, relative to the first guess
MODELS_TRIED = 5  # models that vote on validation for each prior precision


def list_laplace(
    task: Task,
    checkpoints: CheckpointSet,
    score_val: ScoreFn,
    *,
    batch_size: int,
    options: SourceOptions,
    seed: int,
) -> list[Source]:
    """Return the Laplace posterior as a source, or nothing for 0 models and for a task without classes.

    Args:
        task: The network, the subset and the images.
        checkpoints: The checkpoints, whose last one is the center of the posterior.
        score_val: Scores vectors on validation.
        batch_size: The batch size of training, in which the costs of all sources are counted.
        options: The number of models.
        seed: The seed of the run.
    """
    num_models = options.num_finetuned
    if num_models == 0 or not isinstance(task.data.objective, Classification):
        return []
    num_images = choose_num_images(task)
    num_gradients = num_images * task.data.facts["num_classes"]
    num_scored = len(FACTORS) * MODELS_TRIED * count_images(task.data.val)
    draw = partial(
        draw_laplace,
        checkpoints.vectors_KD[-1],
        task,
        score_val,
        num_models=num_models,
        num_images=num_images,
        seed=seed,
    )
    return [
        Source(
            LAPLACE,
            Kind.TRAINED,
            draw,
            code=digest_code([locate(draw_laplace), locate(choose_num_images)]),
            num_models=num_models,
            gradient_evaluations=num_gradients / batch_size / num_models,
            training_images=math.ceil((num_gradients + num_scored) / num_models),
        )
    ]


def choose_num_images(task: Task) -> int:
    """Return n, the number of training images that decide the curvature; 0 if one image is already too many."""
    num_classes, num_params = task.data.facts["num_classes"], task.subset.num_params
    limits = MOST_IMAGES, MOST_GRADIENTS / num_classes, MOST_NUMBERS / (num_classes * num_params)
    return int(min(count_images(task.data.train), *limits))


@set_float32_precision()
def draw_laplace(
    vector_D: Tensor, task: Task, score_val: ScoreFn, *, num_models: int, num_images: int, seed: int
) -> Tensor:
    """Draw models (M, D) from the Laplace posterior around `vector_D`; buffers of the subset keep their values.

    The precision of the posterior is the generalized Gauss-Newton matrix plus a prior precision (Daxberger et al.
    2021). With the prior precision of the highest marginal likelihood, samples leave the region in which the network is
    linear (Immer et al. 2021): on digits they reach 20% accuracy, which would be no baseline. It therefore only is the
    first guess. Of the guess times each of `FACTORS`, the prior precision is chosen at which the vote of the models has
    the least loss on validation.

    Args:
        vector_D: The checkpoint.
        task: The network, the subset and the images.
        score_val: Scores vectors on validation.
        num_models: M.
        num_images: n, the number of training images that decide the curvature.
        seed: The seed of the choice of images and of the models.

    Raises:
        UnavailableSource: laplace-torch cannot handle the network.
    """
    if num_images == 0:
        raise UnavailableSource(f"the gradients of {task.subset.num_params} parameters are too large for laplace-torch")
    try:
        posterior = fit_posterior(vector_D, task, num_images, seed)
    except Exception as error:  # torch.func and laplace-torch raise many kinds of errors
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UnavailableSource(f"laplace-torch cannot handle the network ({reason})") from error
    guess = float(posterior.prior_precision)
    trained = [name for name, _ in task.model.named_parameters() if name in task.subset.names]
    columns_P = find_columns(trained, task.subset)

    def draw(factor: float, count: int) -> Tensor:
        posterior.prior_precision = factor * guess
        generator = torch.Generator(task.device).manual_seed(derive_seed(seed, LAPLACE))
        vectors_MD = vector_D.repeat(count, 1)
        vectors_MD[:, columns_P] = posterior.sample(count, generator=generator).detach().cpu()
        return vectors_MD

    def measure_vote(factor: float) -> float:
        votes = score_val(draw(factor, MODELS_TRIED)).votes
        loss = math.nan if votes is None else float(votes.loss_PN[-1].mean())
        return math.inf if math.isnan(loss) else loss

    return draw(min(FACTORS, key=measure_vote), num_models)


def fit_posterior(vector_D: Tensor, task: Task, num_images: int, seed: int) -> FullLaplace | DiagLaplace:
    """Return the posterior around `vector_D` with the prior precision of the highest marginal likelihood.

    It has a full covariance for up to `MOST_FULL` parameters, and a diagonal one beyond.
    """
    model = copy_frozen(task.model, task.device).eval()
    model.load_state_dict({**model.state_dict(), **unflatten(vector_D, task.subset)})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in task.subset.names)
    sample = draw_fixed_sample(task.data.train, num_images, derive_seed(seed, LAPLACE))
    images_NCSS, labels_N = (part.to(task.device) for part in sample[:])
    data = TensorDataset(task.data.make_normalizer().to(task.device)(images_NCSS), labels_N)
    at_once = int(NUMBERS_AT_ONCE / (task.data.facts["num_classes"] * task.subset.num_params))
    posterior = (EigenLaplace if task.subset.num_params <= MOST_FULL else DiagLaplace)(
        model,
        "classification",
        temperature=num_images / count_images(task.data.train),  # The posterior is of all training images.
        backend=PerImageGGN,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # laplace-torch warns of predictions that are not made here
        posterior.fit(DataLoader(data, batch_size=min(max(1, at_once), IMAGES_AT_ONCE)))
        posterior.optimize_prior_precision(method="marglik")
    if not posterior.prior_precision.isfinite().all():
        raise ValueError("the prior precision is not finite")
    return posterior


class EigenLaplace(FullLaplace):
    """A full posterior whose eigenvalues are computed once, because many prior precisions are tried."""

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues (P,) and eigenvectors (P, P) of the curvature, scaled to all training images."""
        values_P, vectors_PP = torch.linalg.eigh(self.H)
        return values_P.clamp_min(0) / self.temperature, vectors_PP

    @property
    def log_det_posterior_precision(self) -> Tensor:
        """The logarithm of the determinant of the precision, which has a gradient to the prior precision."""
        return (self.eigen[0] + self.prior_precision).log().sum()

    @property
    def posterior_scale(self) -> Tensor:
        """A square root of the covariance (P, P)."""
        values_P, vectors_PP = self.eigen
        return vectors_PP / (values_P + self.prior_precision).sqrt()


class PerImageGGN(GGNInterface):
    """The generalized Gauss-Newton matrix from the gradients of each image alone.

    The backends of laplace-torch run every image of a batch for the gradients of each one.
    """

    def jacobians(self, x: Any, enable_backprop: bool = False) -> tuple[Tensor, Tensor]:
        """Return the gradients (B, classes, P) of the logits (B, classes) of images `x`, and the logits."""

        def forward(parameters: dict[str, Tensor], image_CSS: Tensor) -> tuple[Tensor, Tensor]:
            (logits,) = functional_call(self.model, (parameters, self.buffers_dict), (image_CSS[None],))
            return logits, logits

        gradients, logits = vmap(jacrev(forward, has_aux=True), in_dims=(None, 0))(self.params_dict, x)
        return torch.cat([part.flatten(2) for part in gradients.values()], dim=2).detach(), logits.detach()
