"""FID equals that of torchmetrics, its influences are derivatives, and the samples of all models start alike."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from core.evaluation.scores import Metric
from core.runtime.errors import UserError
from tasks.objectives.frechet_distance import Gaussian, measure_distance
from tasks.objectives.generation import Generation, stack_planes
from tests.pipeline.conftest import assert_names

FID = Metric("FID", "on 6 features", higher_is_better=False)
SHAPE, NUM_ITEMS, NUM_TIMESTEPS = (1, 4, 4), 40, 100


class Features(nn.Module):
    """Six fixed linear features."""

    num_features = 6

    def __init__(self):
        super().__init__()
        weights = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weights", weights)

    def forward(self, images):
        return images.flatten(1) @ self.weights


def make_objective(sampling_steps=3, features=None):
    return Generation(
        features or Features(), FID, num_timesteps=NUM_TIMESTEPS, sampling_steps=sampling_steps, recorded={}
    )


@pytest.fixture
def items():
    """Return inputs and targets of a split."""
    images = torch.rand(NUM_ITEMS, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    planes = [
        stack_planes(image, NUM_TIMESTEPS, torch.Generator().manual_seed(index)) for index, image in enumerate(images)
    ]
    return torch.stack(planes), images


def make_network(share):
    """Return a network that takes this share of the noisy image for noise."""
    return lambda noisy, timesteps: share * noisy * (1 + timesteps.view(-1, 1, 1, 1) / NUM_TIMESTEPS)


def score(networks, items, sizes=(25, 15), objective=None):
    planes, images = items
    objective = objective or make_objective()
    counter = objective.count_scores(len(networks), torch.device("cpu"))
    for rows in torch.arange(len(images)).split(list(sizes)):
        groups = []
        for model, network in enumerate(networks):
            predicted = objective.predict(network, planes[rows])
            groups.append((slice(model, model + 1), {name: part[None] for name, part in predicted.items()}))
        counter.add(iter(groups), images[rows])
    return counter.finish()


def test_fid_equals_that_of_torchmetrics(items):
    networks = [make_network(share) for share in (0.2, 0.8)]
    scores, objective = score(networks, items), make_objective()
    for network, value in zip(networks, scores.accuracy_M, strict=True):
        metric = FrechetInceptionDistance(Features())
        metric.update(items[1], real=True)
        metric.update(objective.predict(network, items[0])["samples"], real=False)
        metric.orig_dtype = torch.float64  # it rounds its result to the type of the features
        assert value == pytest.approx(metric.compute().item(), rel=1e-6)
    assert scores.metric == FID and scores.wrong_MN is None and scores.votes is None


def test_scores_do_not_depend_on_the_batches(items):
    networks = [make_network(share) for share in (0.2, 0.8)]
    one, other = score(networks, items), score(networks, items, sizes=(7, 33))
    np.testing.assert_allclose(one.accuracy_M, other.accuracy_M, rtol=1e-6)
    np.testing.assert_allclose(one.loss_M, other.loss_M, rtol=1e-6)


def draw_features(num_items, seed, scale=1.0, shift=0.0):
    random = np.random.default_rng(seed)
    mixing_FF = np.random.default_rng(seed + 50).normal(size=(5, 5))
    return shift + scale * random.normal(size=(num_items, 5)) @ mixing_FF


def measure_weighted(features_NF, weights_N):
    """Return the mean and covariance of weighted items; whole weights repeat an item."""
    total = weights_N.sum()
    mean_F = weights_N @ features_NF / total
    centered_NF = features_NF - mean_F
    return mean_F, (centered_NF.T * weights_N) @ centered_NF / total * len(features_NF) / (len(features_NF) - 1)


def measure_directly(real, generated):
    (mean_F, covariance_FF), (other_F, other_FF) = real, generated
    root = np.sqrt(np.linalg.eigvals(covariance_FF @ other_FF).astype(complex)).real.sum()
    return np.sum((mean_F - other_F) ** 2) + np.trace(covariance_FF) + np.trace(other_FF) - 2 * root


def test_the_influence_of_an_item_is_the_derivative_to_its_weight():
    real_NF, generated_NF = draw_features(30, 0), draw_features(30, 1, shift=0.5)
    distance, influence_N = measure_distance(Gaussian(real_NF), Gaussian(generated_NF))
    assert influence_N.mean() == pytest.approx(distance, rel=1e-9)
    for item in (0, 7, 29):
        ends = []
        for step in (-1e-5, 1e-5):
            weights_N = np.ones(30)
            weights_N[item] += step
            ends.append(measure_directly(*(measure_weighted(part, weights_N) for part in (real_NF, generated_NF))))
        slope = (ends[1] - ends[0]) / 2e-5
        assert slope == pytest.approx((influence_N[item] - distance) / 30, rel=1e-4, abs=1e-6)


def test_influences_have_the_spread_of_a_bootstrap_that_computes_fid_anew():
    num_items, random = 500, np.random.default_rng(2)
    real_NF, generated_NF = draw_features(num_items, 3), draw_features(num_items, 4, scale=1.3, shift=1.0)
    # Sums of the features and of their products are enough for FID.
    sums = [(part, np.einsum("nf,ng->nfg", part, part)) for part in (real_NF, generated_NF)]
    counts_RN = random.multinomial(num_items, np.full(num_items, 1 / num_items), size=200)
    drawn = []
    for counts_N in counts_RN:
        moments = []
        for part_NF, products_NFF in sums:
            mean_F = counts_N @ part_NF / num_items
            square_FF = np.tensordot(counts_N, products_NFF, axes=1)
            moments.append((mean_F, (square_FF - num_items * np.outer(mean_F, mean_F)) / (num_items - 1)))
        drawn.append(measure_directly(*moments))
    _, influence_N = measure_distance(Gaussian(real_NF), Gaussian(generated_NF))
    to_first_order = counts_RN @ influence_N / num_items
    assert np.std(to_first_order) == pytest.approx(np.std(drawn), rel=0.1)
    assert np.corrcoef(to_first_order, drawn)[0, 1] > 0.95


def test_features_that_never_vary_do_not_break_the_influence():
    real_NF, generated_NF = draw_features(30, 0), draw_features(30, 1)
    real_NF[:, 0] = generated_NF[:, 0] = 0
    distance, influence_N = measure_distance(Gaussian(real_NF), Gaussian(generated_NF))
    expected, _ = measure_distance(Gaussian(real_NF[:, 1:]), Gaussian(generated_NF[:, 1:]))
    assert distance == pytest.approx(expected) and np.isfinite(influence_N).all()


def test_a_model_that_gives_nan_has_the_loss_nan_and_a_bad_finite_fid(items):
    networks = [make_network(0.5), lambda noisy, timesteps: torch.full_like(noisy, torch.nan)]
    scores = score(networks, items)
    assert np.isnan(scores.loss_M).tolist() == [False, True]
    assert np.isfinite(scores.accuracy_M).all() and np.isfinite(scores.influence_MN).all()
    real = Gaussian(Features()(items[1]).numpy())
    black, white = (
        measure_distance(real, Gaussian(Features()(torch.full_like(items[1], shade)).numpy()))[0] for shade in (-1, 1)
    )
    assert scores.accuracy_M[1] == pytest.approx(max(black, white))


def test_the_loss_is_the_error_of_the_predicted_noise_at_the_timestep_of_the_item(items):
    planes, images = items
    noise, timesteps = planes[:, 1], planes[:, 2, 0, 0, 0].long()
    noisy = DDPMScheduler(NUM_TIMESTEPS).add_noise(images, noise, timesteps)
    objective = make_objective()
    perfect = objective.measure_errors(lambda *_: noise, planes)
    assert perfect.abs().max() == 0
    network = make_network(0.5)
    expected = (network(noisy, timesteps) - noise).square().mean()
    assert objective.compute_loss(network, planes, images).item() == pytest.approx(expected.item())
    assert timesteps.unique().numel() > 10


def test_samples_start_from_the_noise_of_their_items_and_follow_ddim(items):
    planes, _ = items
    starts = []

    def network(noisy, timesteps):
        starts.append((noisy, timesteps[0].item()))
        return 0.5 * noisy

    objective = make_objective(sampling_steps=4)
    samples = objective.sample(network, planes[:, 3])
    assert [timestep for _, timestep in starts] == [99, 74, 49, 24]
    assert torch.equal(starts[0][0], planes[:, 3]) and samples.abs().max() <= 1
    signal = DDPMScheduler(NUM_TIMESTEPS).alphas_cumprod
    # DDIM without noise (Song et al. 2021, Eq. 12)
    image = planes[:, 3]
    for timestep, following in ((99, 74), (74, 49), (49, 24), (24, None)):
        now, then = signal[timestep], signal[following] if following is not None else torch.tensor(1.0)
        clean = ((image - (1 - now).sqrt() * 0.5 * image) / now.sqrt()).clamp(-1, 1)
        image = then.sqrt() * clean + (1 - then).sqrt() * 0.5 * image
    torch.testing.assert_close(samples, image)


def test_too_few_images_for_the_features_are_refused(items):
    planes, images = items
    with pytest.raises(UserError) as refused:
        score([make_network(0.5)], (planes[:6], images[:6]), sizes=(6,))
    assert_names(str(refused.value), 6, 7, "evaluation.num_train_images")


def test_the_schedule_is_that_of_ddpm():
    betas = make_objective().noising.betas
    assert (betas[0].item(), betas[-1].item()) == pytest.approx((1e-4, 0.02)) and len(betas) == NUM_TIMESTEPS
