"""Tests that scoring with the frozen prefix equals the full forward pass, on every kind of network."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from torchmetrics.functional.classification import multiclass_calibration_error

from core.checkpoints.subset import flatten, resolve_subset, unflatten
from core.runtime.errors import UserError
from tasks.data.scenes import collate_segmentation
from tasks.networks.build import build_classifier
from tasks.networks.segmenters import build_segmenter
from tasks.objectives.classification import Classification
from tasks.objectives.objective import add_model_axis
from tasks.objectives.segmentation import MOST_OUTPUTS, Segmentation
from tasks.scoring.frozen_prefix import SplitNetwork, WholeNetwork, split_network
from tasks.scoring.scorer import Scorer, ScoringSpec, choose_batch_size

NETWORKS = {
    "resnet18": {"image_size": 16},
    "vit_tiny_patch16_224": {"image_size": 32, "options": {"img_size": 32, "patch_size": 8}},
    "convnext_tiny": {"image_size": 32, "options": {"depths": (1, 1, 2, 2)}},
}
NUM_IMAGES, BATCH = 22, 8  # chunks of 8, 8 and 6: the last one is not full


def network(name):
    torch.manual_seed(0)
    return build_classifier(name, num_classes=5, channels=3, **NETWORKS[name]).eval()


def images_for(name):
    torch.manual_seed(1)
    size = NETWORKS[name]["image_size"]
    return TensorDataset(torch.randn(NUM_IMAGES, 3, size, size), torch.randint(5, (NUM_IMAGES,)))


def vectors_for(model, subset, num_models=4):
    torch.manual_seed(2)
    vector_D = flatten(model, subset)
    return vector_D + 0.5 * torch.randn(num_models, len(vector_D))


def make_scorer(model, subset, split, *, kind=Scorer, groups_N=None, **options):
    """Return a scorer that takes the images in chunks of 8."""
    options = ScoringSpec(batch_size=BATCH, **options)
    return kind(model, subset, split, objective=Classification(5), options=options, groups_N=groups_N)


def independent_scores(model, subset, vectors_MD, split):
    """Score by definition, without chunks, prefix or functional calls: load each state dict and run the network."""
    images, labels = split.tensors
    wrong, losses = [], []
    for vector_D in vectors_MD:
        model.load_state_dict({**model.state_dict(), **unflatten(vector_D, subset)})
        with torch.no_grad():
            logits = model(images)
        wrong.append((logits.argmax(1) != labels).numpy())
        losses.append(torch.nn.functional.cross_entropy(logits, labels).item())
    return np.stack(wrong), np.array(losses)


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_equal_an_independent_full_forward(name):
    model, split = network(name), images_for(name)
    subset = resolve_subset(model, "last_norms", count=2)
    vectors_MD = vectors_for(model, subset)
    scorer = make_scorer(model, subset, split)
    assert isinstance(scorer.network, SplitNetwork), "the frozen prefix was not used"
    scores = scorer(vectors_MD)
    wrong_MN, loss_M = independent_scores(model, subset, vectors_MD, split)
    assert np.array_equal(scores.wrong_MN, wrong_MN)
    assert np.allclose(scores.loss_M, loss_M, rtol=1e-5)
    assert np.array_equal(scores.accuracy_M, (~wrong_MN).mean(axis=1))


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize(
    "generated",
    [
        "conv1.6.weight",
        "layer4.0.conv1.weight",
        "layer4.0.bn2.[wb]*",
        "layer4.0.downsample.1.weight",
        "layer4.0.downsample.2.[wb]*",
        "fc.*",
    ],
)
def test_no_model_changes_what_the_next_one_sees_wherever_the_cut_is(generated, inplace):
    # Residual blocks add in place, possibly onto a tensor that crossed the cut and is cached for the next model.
    torch.manual_seed(0)
    model = build_classifier("test_resnet", num_classes=5, channels=3, image_size=16).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = inplace
    subset, split = resolve_subset(model, [generated]), images_for("resnet18")
    vectors_MD = vectors_for(model, subset)
    scorer = make_scorer(model, subset, split)
    assert isinstance(scorer.network, SplitNetwork)
    twice = torch.cat([vectors_MD, vectors_MD])
    wrong_MN, loss_M = independent_scores(model, subset, twice, split)
    scores = scorer(twice)
    assert np.array_equal(scores.wrong_MN, wrong_MN)
    assert np.allclose(scores.loss_M, loss_M, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_prefix_holds_most_of_the_network_and_no_generated_parameter(name):
    model, (images, _) = network(name), images_for(name).tensors
    subset = resolve_subset(model, "last_norms", count=2)
    network_ = split_network(model, subset.names, images[:BATCH])
    prefix_weights = {node.target for node in network_.prefix.graph.nodes if node.op == "get_attr"}
    suffix_weights = {node.target for node in network_.suffix.graph.nodes if node.op == "get_attr"}
    assert not (prefix_weights | suffix_weights) & set(subset.names)
    assert len(prefix_weights) > 4 * len(suffix_weights)
    with torch.no_grad():
        vector_D = vectors_for(model, subset, num_models=1)[0]
        logits = network_.run(network_.cache(images[:BATCH]), unflatten(vector_D, subset))
        expected = torch.func.functional_call(model, unflatten(vector_D, subset), (images[:BATCH],))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


class BranchesOnData(torch.nn.Module):
    """A network that torch.export cannot trace, because it branches on the content of a tensor."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = torch.nn.LayerNorm(12), torch.nn.Linear(12, 5)

    def forward(self, images):
        hidden = self.norm(images.flatten(1))
        return self.head(hidden if hidden.sum() > 0 else -hidden)


def test_a_network_that_cannot_be_exported_is_run_whole():
    torch.manual_seed(0)
    model = BranchesOnData().eval()
    subset = resolve_subset(model, "last_norms", count=1)
    split = TensorDataset(torch.randn(8, 3, 2, 2), torch.randint(5, (8,)))
    vectors_MD = vectors_for(model, subset)
    scorer = make_scorer(model, subset, split)
    assert isinstance(scorer.network, WholeNetwork)
    wrong_MN, _ = independent_scores(model, subset, vectors_MD, split)
    assert np.array_equal(scorer(vectors_MD).wrong_MN, wrong_MN)


class WritesIntoItsInput(torch.nn.Module):
    """A user's network over plain vectors that writes into its input."""

    def __init__(self, traceable):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 3))
        self.traceable = traceable

    def forward(self, x):
        x.mul_(2).sub_(0.5)
        if not self.traceable and x.sum().item() > 1e9:  # torch.export cannot follow a number out of a tensor
            return self.body(-x)
        return self.body(x)


@pytest.mark.parametrize("traceable, kind", [(True, SplitNetwork), (False, WholeNetwork)])
@pytest.mark.parametrize("subset", ["last_norms", "all"])
def test_a_network_that_writes_into_its_input_gets_unchanged_images_at_every_call(subset, traceable, kind):
    torch.manual_seed(0)
    model, features_NF, labels_N = WritesIntoItsInput(traceable).eval(), torch.randn(22, 6), torch.randint(3, (22,))
    chosen = resolve_subset(model, subset, count=1)
    vectors_MD = vectors_for(model, chosen)
    scorer = make_scorer(model, chosen, TensorDataset(features_NF.clone(), labels_N))
    assert isinstance(scorer.network, kind)
    with torch.no_grad():
        logits = [
            torch.func.functional_call(model, unflatten(vector_D, chosen), (features_NF.clone(),))
            for vector_D in vectors_MD
        ]
    expected = [torch.nn.functional.cross_entropy(of_one, labels_N).item() for of_one in logits]
    for _ in range(2):  # the first call computes the prefix, the second uses the cache
        assert np.allclose(scorer(vectors_MD).loss_M, expected, rtol=1e-5)


def score_by_definition(model, subset, vectors_MD, images):
    """Return the probabilities (M, N, C) of whole forward passes."""
    with torch.no_grad():
        logits = [torch.func.functional_call(model, unflatten(vector_D, subset), (images,)) for vector_D in vectors_MD]
    return torch.stack(logits).softmax(dim=2)


def test_calibration_losses_and_votes_follow_their_definitions():
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, "last_norms", count=2)
    vectors_MD, groups_N = vectors_for(model, subset), np.arange(NUM_IMAGES) // 2
    scores = make_scorer(model, subset, split, groups_N=groups_N)(vectors_MD)
    images, labels = split.tensors
    probabilities_MNC = score_by_definition(model, subset, vectors_MD, images)
    for ece, probabilities_NC in zip(scores.ece_M, probabilities_MNC, strict=True):
        expected = multiclass_calibration_error(probabilities_NC, labels, num_classes=5, n_bins=15)
        assert ece == pytest.approx(expected.item(), abs=1e-5)
    loss_MN = -probabilities_MNC.log()[:, torch.arange(NUM_IMAGES), labels]
    np.testing.assert_allclose(scores.loss_MN, loss_MN, rtol=1e-3, atol=1e-4)
    assert scores.loss_MN.dtype == np.float16 and scores.groups_N is groups_N
    mean_NC = probabilities_MNC.mean(0)
    assert scores.votes.counts_P.tolist() == [1, 2, 4]
    np.testing.assert_array_equal(scores.votes.wrong_PN[-1], mean_NC.argmax(1) != labels)
    losses_N = torch.nn.functional.nll_loss(mean_NC.log(), labels, reduction="none")
    np.testing.assert_allclose(scores.votes.loss_PN[-1], losses_N, rtol=1e-4)


def test_given_temperatures_are_used_and_none_are_fitted():
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, "last_norms", count=2)
    vectors_MD, temperature_P = vectors_for(model, subset), np.array([0.5, 2.0, 4.0])
    votes = make_scorer(model, subset, split)(vectors_MD, temperature_P).votes
    mean_NC = score_by_definition(model, subset, vectors_MD, split.tensors[0]).mean(0)
    confidence_N = (mean_NC.log() / 4).softmax(1).max(1).values
    np.testing.assert_allclose(votes.confidence_PN[-1], confidence_N, rtol=1e-4)
    assert votes.temperature_P is temperature_P and votes.fitted_P is None


def test_the_vote_of_one_model_is_its_own_prediction_with_a_temperature():
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, "last_norms", count=2)
    scores = make_scorer(model, subset, split)(vectors_for(model, subset, 1))
    votes = scores.votes
    assert votes.counts_P.tolist() == [1] and votes.fitted_P.shape == (1,) and np.isnan(votes.disagreement_PN).all()
    np.testing.assert_array_equal(votes.wrong_PN, scores.wrong_MN)
    assert votes.loss_PN.mean() == pytest.approx(scores.loss_M[0], rel=1e-5)


def test_nan_counts_as_wrong_and_does_not_spoil_the_vote():
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, "last_norms", count=2)
    vectors_MD = vectors_for(model, subset)
    scorer = make_scorer(model, subset, split)
    sound = scorer(vectors_MD[[0, 1, 3]])
    vectors_MD[2, 0] = torch.nan
    scores = scorer(vectors_MD)
    assert scores.accuracy_M[2] == 0 and scores.wrong_MN[2].all()
    assert np.isnan(scores.loss_M[2]) and np.isnan(scores.ece_M[2])
    for name in ("wrong_PN", "loss_PN", "brier_PN", "confidence_PN", "disagreement_PN"):
        found, expected = (getattr(votes, name)[-1] for votes in (scores.votes, sound.votes))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert scores.votes.fitted_P[-1] == pytest.approx(sound.votes.fitted_P[-1], rel=1e-3)
    assert scores.pick_best() == [0, 1, 3][sound.pick_best()]


def test_the_size_of_the_cache_does_not_change_the_scores():
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, "last_norms", count=2)
    vectors_MD = vectors_for(model, subset)
    kept, not_kept = (make_scorer(model, subset, split, cache_bytes=size) for size in (1e9, 0))
    first, second, again = kept(vectors_MD), not_kept(vectors_MD), kept(vectors_MD)
    assert (len(kept.chunks._kept), len(not_kept.chunks._kept)) == (3, 0)
    assert np.array_equal(first.wrong_MN, second.wrong_MN) and np.array_equal(first.loss_M, again.loss_M)


def test_scoring_does_not_change_the_network():
    model, split = network("resnet18"), images_for("resnet18")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subset = resolve_subset(model, "last_norms", count=2)
    make_scorer(model, subset, split)(vectors_for(model, subset))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_running_statistics_can_be_generated_too():
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, ["layer4.1.bn2.*"])
    assert "layer4.1.bn2.running_var" in subset.names
    vectors_MD = vectors_for(model, subset).abs()
    wrong_MN, loss_M = independent_scores(model, subset, vectors_MD, split)
    scores = make_scorer(network("resnet18"), subset, split)(vectors_MD)
    assert np.array_equal(scores.wrong_MN, wrong_MN) and np.allclose(scores.loss_M, loss_M, rtol=1e-5)


def test_a_vector_of_the_wrong_length_is_refused():
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, "last_norms", count=2)
    with pytest.raises(UserError, match="2048"):
        make_scorer(model, subset, split)(torch.zeros(2, 2047))


def test_many_models_at_once_score_as_one_after_the_other():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.LayerNorm(16), torch.nn.ReLU(), torch.nn.Linear(16, 5)
    ).eval()
    split = TensorDataset(torch.randn(NUM_IMAGES, 3, 4, 4), torch.randint(5, (NUM_IMAGES,)))
    subset = resolve_subset(model, "all")
    vectors_MD = vectors_for(model, subset, num_models=40)
    scorer = make_scorer(model, subset, split)
    assert scorer.network.vectorizes
    scores = scorer(vectors_MD)
    wrong, losses = independent_scores(model, subset, vectors_MD, split)
    assert np.array_equal(scores.wrong_MN, wrong)
    np.testing.assert_allclose(scores.loss_M, losses, rtol=1e-5)


def test_generated_convolutions_are_run_one_model_after_the_other():
    model = network("resnet18")
    assert not make_scorer(model, resolve_subset(model, "all"), images_for("resnet18")).network.vectorizes


class Flipped(Scorer):
    """A stand-in for lower precision on a GPU: the logits of the first model change their sign."""

    def _lower_precision(self):
        return nullcontext()

    def predict(self, *arguments, exact=False, **options):
        for rows, logits in super().predict(*arguments, exact=exact, **options):
            is_flipped = self.precision == "bf16" and not exact and rows.start == 0
            yield rows, -logits if is_flipped else logits


def test_a_lower_precision_logs_how_often_it_agrees_with_fp32(caplog):
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, "last_norms")
    vectors_MD = vectors_for(model, subset)
    exact, lowered = (make_scorer(model, subset, split, kind=Flipped) for _ in range(2))
    lowered.precision = "bf16"
    with caplog.at_level("INFO"):
        exact_loss_M, lowered_loss_M = exact(vectors_MD).loss_M, lowered(vectors_MD).loss_M
    assert exact.agreement is None and lowered.agreement == 0.75 and "75.00% of 32 predictions" in caplog.text
    assert (exact_loss_M == lowered_loss_M).tolist() == [False, True, True, True]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_only_the_part_that_depends_on_the_generated_parameters_has_lower_precision(precision):
    model, split = network("resnet18"), images_for("resnet18")
    subset = resolve_subset(model, "last_norms")
    scorer, seen = make_scorer(model, subset, split), {"cache": [], "run": []}
    scorer.precision = precision  # set it here, because ScoringSpec refuses tf32 without a GPU

    class Watched:
        vectorizes = False

        def __getattr__(self, name, network=scorer.network):
            seen[name].append(torch.backends.cudnn.allow_tf32)
            return getattr(network, name)

    scorer.network = Watched()
    scorer(vectors_for(model, subset))
    assert not any(seen["cache"])
    assert set(seen["run"]) == ({False} if precision == "fp32" else {False, True}), "tf32 is compared with fp32 first"


def test_an_unknown_precision_and_a_lower_one_without_a_gpu_are_refused():
    with pytest.raises(UserError, match=r"scoring\.precision=fp8.*fp32, tf32, bf16"):
        ScoringSpec(precision="fp8")
    with pytest.raises(UserError, match=r"scoring\.precision=bf16 .*GPU.*scoring\.precision=fp32"):
        ScoringSpec(precision="bf16")


def test_images_of_several_sizes_are_scored_as_by_the_whole_network():
    torch.manual_seed(0)
    model = build_segmenter("fcn_small", num_classes=5, channels=3, options={"channels": [4, 4, 8, 8]}).eval()
    sizes = [(32, 40), (40, 32), (33, 35), (32, 40), (50, 36)]  # the last chunk has one image
    scenes = [(torch.randn(3, *size), torch.randint(5, size)) for size in sizes]
    subset = resolve_subset(model, "last_norms")
    vectors_MD, objective = vectors_for(model, subset, num_models=3), Segmentation(5)
    options = ScoringSpec(batch_size=2)
    scorer = Scorer(model, subset, scenes, objective=objective, collate=collate_segmentation, options=options)
    assert isinstance(scorer.network, SplitNetwork)
    scores = scorer(vectors_MD)
    for index, vector_D in enumerate(vectors_MD):
        model.load_state_dict({**model.state_dict(), **unflatten(vector_D, subset)})
        counter = objective.count_scores(1, torch.device("cpu"))
        for start in (0, 2, 4):
            images, masks = collate_segmentation(scenes[start : start + 2])
            with torch.no_grad():
                counter.add([(slice(0, 1), add_model_axis(model(images)))], masks)
        expected = counter.finish()
        assert np.array_equal(scores.wrong_MN[index], expected.wrong_MN[0])
        assert np.allclose(scores.accuracy_M[index], expected.accuracy_M[0])
        assert np.allclose(scores.loss_M[index], expected.loss_M[0], rtol=1e-5)


@pytest.mark.parametrize(
    "size, device, batch_size", [(32, "cpu", 256), (520, "cpu", 2), (5_000, "cpu", 1), (520, "cuda", 47)]
)
def test_a_chunk_has_as_many_images_as_their_predictions_fit(size, device, batch_size):
    images = [(torch.empty(3, size, size, device="meta"), 0)]
    limit = Segmentation(21).limit_batch(images[0][0], torch.device(device))
    chosen = choose_batch_size(images, torch.device(device), limit)
    assert chosen == batch_size and (chosen == 1 or chosen * 21 * size**2 <= MOST_OUTPUTS[device])


@pytest.mark.parametrize("size, device, batch_size", [(16, "cpu", 256), (32, "cuda", 2048), (224, "cuda", 256)])
def test_the_batch_size_of_classifiers_depends_on_the_images_alone(size, device, batch_size):
    images = [(torch.empty(3, size, size, device="meta"), 0)]
    limit = Classification(1000).limit_batch(images[0][0], torch.device(device))
    assert choose_batch_size(images, torch.device(device), limit) == batch_size
