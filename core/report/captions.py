"""The words beside each figure: its title, how to read it, and which pictures are good or bad."""

from typing import NamedTuple

from core.report.metric_words import MetricWords


class Caption(NamedTuple):
    """The words beside one figure."""

    title: str
    reading: str  # how to read the marks
    good: str  # the good case, a text that continues "Good:"
    bad: str  # the bad case, a text that continues "Bad:"


CAPTIONS = {  # The keys are the names of the figures. The texts are those of accuracy.
    "differences": Caption(
        "Generated models against each other source",
        "Each row shows the difference between p_diff and another source of weights (explained under the table of "
        "sources), with its interval. The first row is the best source that needs no further training. The side on "
        "which p_diff is better is shaded. Gray diamonds and squares mark a max IoU that does not show which source is "
        "newer, because the accuracies may explain it or the source with the lower one copies.",
        "filled circles in both panels, above all in the first row.",
        "crosses, or empty circles throughout, because averaging and noise need no generative model.",
    ),
    "accuracy_vs_max_iou": Caption(
        "Accuracy and novelty of every source",
        "Each labeled marker is the mean of a source. Dark dots are single checkpoints (original), orange diamonds "
        "single generated models, and pale dots models of the other sources. Max IoU is the share of wrong test "
        "images that a model has in common with its most similar original, where 1 means the same errors.",
        "p_diff above and left of the free sources, so more accurate and newer.",
        "p_diff below them, because a less accurate model lies left without being newer; p_diff far right, where "
        "models repeat the errors of originals; or p_diff in the same place as the averages, which "
        "need no training.",
    ),
    "max_iou": Caption(
        "Errors shared with the nearest original",
        "One histogram per source of the max IoU of its models, the share of wrong test images in common with the most "
        "similar original. The black line is the median. An original is not compared with its neighbors in time.",
        "p_diff left of original, so that its models make other errors.",
        "p_diff near 1, where models repeat the errors of an original.",
    ),
    "iou_matrix": Caption(
        "Which sources make the same errors",
        "Each pixel compares the errors of two models from a random sample of each source. The two models of a bright "
        "pixel are wrong on the same test images.",
        "a dark p_diff block on the diagonal, so that generated models differ from each other.",
        "a bright p_diff block on the diagonal (little diversity), or a bright block where p_diff meets an average "
        "(the same behavior).",
    ),
    "min_l2": Caption(
        "Distance to the nearest original",
        "One histogram per source of the Euclidean distance (L2) between a model's weights and the nearest original. "
        "The black line is the median. Left of the dashed line, a model is a near-copy, closer to an original than "
        "any two originals are to each other.",
        "p_diff right of the dashed line. Farther is not better by itself, because noise lies far away, too.",
        "p_diff left of the dashed line, which means near-copies.",
    ),
    "weights_over_nearest": Caption(
        "Generated weights above their nearest originals",
        "Each pair of rows is a model and, below it, the original nearest to it. The pairs run from the closest "
        "generated model to the farthest, then come two originals for scale. Bright weights lie above the originals' "
        "mean, dark ones below.",
        "pairs of p_diff that differ as much as the pairs of originals.",
        "pairs of p_diff whose two rows look the same, which means a copy.",
    ),
    "weight_densities": Caption(
        "Distribution of single weights",
        "Each panel shows how one randomly chosen weight is distributed over the models of a source.",
        "the dashed curve (p_diff) follows the solid one (original).",
        "the dashed curve is much narrower, so diversity is lost. If the dotted curve (gaussian) fits as well, this "
        "weight needs no diffusion model.",
    ),
    "pca_weights": Caption(
        "Map of the weights (PCA)",
        "Each marker is a model, placed along the two directions in which the weights of all models differ most.",
        "p_diff spreads over the region of the originals.",
        "p_diff is one tight cloud (little diversity), or lies exactly on single originals (copies).",
    ),
    "tsne_weights": Caption(
        "Neighborhoods of the weights (t-SNE)",
        "Each marker is a model, and models that are close here have similar weights. The distances between separate "
        "groups and the sizes of groups mean nothing.",
        "p_diff mixes with the originals without covering them.",
        "p_diff forms a group of its own, so its weights are unlike those of the checkpoints.",
    ),
    "pca_latents": Caption(
        "Map of the latents (PCA)",
        "As in the map of the weights, but for the latents, the short codes that the autoencoder makes of the weights "
        "and that the generator learns to draw.",
        "p_diff spreads over the region of the originals.",
        "p_diff misses parts of that region, so the generator has not learned their distribution.",
    ),
    "tsne_latents": Caption(
        "Neighborhoods of the latents (t-SNE)",
        "Models that are close here have similar latents (the autoencoder's short codes). The distances between "
        "separate groups and the sizes of groups mean nothing.",
        "p_diff mixes with the originals without covering them.",
        "p_diff forms a group of its own.",
    ),
    "reverse_diffusion": Caption(
        "Accuracy during generation",
        "Generation starts from noise (left) and ends with weights (right). Each thin line is the validation accuracy "
        "of one model if generation stopped at that step, and the thick line is the mean.",
        "the lines rise and meet at a high accuracy.",
        "the lines end low or far apart. If they are flat from the start, the decoder alone makes good weights and "
        "diffusion adds little.",
    ),
    "worth": Caption(
        "Accuracy and log-likelihood of a vote",
        "Each line is a source of weights: the checkpoints (original), the generated models (p_diff), and the free and "
        "the trained source whose full vote has the lowest loss. Vertical bars are 95% intervals over test images. "
        "Sources share the images, so a difference can be measurable although its bars overlap.",
        "p_diff above the free source and close to the trained one, and still rising with more models.",
        "p_diff flat, where further models add nothing, or not above the free source.",
    ),
    "worth_measures": Caption(
        "Calibration and diversity of a vote",
        "The sources of the figure of accuracy and log-likelihood. Each panel is one measure, explained under the "
        "table of votes.",
        "p_diff on the better side of the free source in most panels.",
        "p_diff with next to no disagreement, where all models answer alike and a vote cannot help.",
    ),
    "training_history": Caption(
        "The generated weights during classifier training",
        "Each row is a weight that is later generated, each column an epoch. Within a tensor, the weights are sorted "
        "by their final value, bright above the tensor's mean and dark below.",
        "the last columns look alike, so the weights had settled before checkpoints were taken.",
        "the columns still change at the end.",
    ),
}


def write_caption(name: str, words: MetricWords) -> Caption:
    """Return the words beside a figure for a primary metric. In all figures, better models stand higher."""
    return Caption(*map(words.adapt, CAPTIONS[name]))
