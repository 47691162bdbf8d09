"""The average precision equals pycocotools', also of resampled images, and influences have its spread."""

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch

from tasks.objectives.average_precision import average_precision, measure_change
from tasks.objectives.box_matching import Matches, match_boxes
from tasks.objectives.detection import Detection
from tests.tasks.objectives.spread import assert_same_spread

CLASSES = 4  # with the background


def draw_boxes(random, count):
    corners = random.uniform(0, 60, (count, 2))
    return np.concatenate([corners, corners + random.uniform(6, 40, (count, 2))], axis=1)


def make_images(num_images, seed=0, jitter=4.0, decimals=2):
    """Return targets and detections with shifted, missing, false, equally sure and wrongly labeled boxes."""
    random = np.random.default_rng(seed)
    targets, predictions = [], []
    for index in range(num_images):
        count = random.integers(0, 6)
        boxes, labels = draw_boxes(random, count), random.integers(1, CLASSES, count)
        crowd = random.random(count) < 0.15
        kept = random.random(count) < 0.85
        found = np.concatenate([boxes[kept] + random.normal(0, jitter * random.random(), (kept.sum(), 4))] * 2)
        extra = draw_boxes(random, random.integers(0, 5))
        given = np.concatenate([found, extra])
        given[:, 2:] = np.maximum(given[:, 2:], given[:, :2] + 1)
        classes = np.concatenate([labels[kept], labels[kept], random.integers(1, CLASSES, len(extra))])
        right = np.arange(len(given)) < len(found)
        scores = np.round(np.clip(random.normal(0.45 + 0.2 * right, 0.2), 0.05, None), decimals)
        targets.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "labels": torch.tensor(labels),
                "iscrowd": torch.tensor(crowd.astype(np.uint8)),
                "image_id": index + 1,
            }
        )
        predictions.append(
            {
                "boxes": torch.tensor(given, dtype=torch.float32),
                "scores": torch.tensor(scores, dtype=torch.float32),
                "labels": torch.tensor(classes),
            }
        )
    return targets, predictions


def score_with_pycocotools(targets, predictions):
    """Return AP and AP50."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []

    def to_box(corners):
        x1, y1, x2, y2 = corners.double().tolist()
        return [x1, y1, x2 - x1, y2 - y1]

    for number, (target, found) in enumerate(zip(targets, predictions, strict=True), start=1):
        for box, label, crowd in zip(target["boxes"], target["labels"], target["iscrowd"], strict=True):
            bbox = to_box(box)
            entry = {"image_id": number, "category_id": int(label), "bbox": bbox, "area": bbox[2] * bbox[3]}
            annotations.append(entry | {"iscrowd": int(crowd), "id": len(annotations) + 1})
        for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
            entry = {"image_id": number, "category_id": int(label), "score": float(score)}
            results.append(entry | {"bbox": to_box(box)})
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": number} for number in range(1, len(targets) + 1)],
        "annotations": annotations,
        "categories": [{"id": label} for label in range(1, CLASSES)],
    }
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2]


def match_all(targets, predictions):
    """Return the matches of one model, and the numbers of objects."""
    pairs = zip(predictions, targets, strict=True)
    matches = Matches.join([match_boxes(found, target, index)[0] for index, (found, target) in enumerate(pairs)])
    single = [target["labels"][target["iscrowd"] == 0] for target in targets]
    return matches, np.stack([np.bincount(labels, minlength=CLASSES) for labels in single])


@pytest.mark.parametrize("seed", range(4))
def test_the_average_precision_equals_pycocotools(seed):
    targets, predictions = make_images(60, seed)
    matches, objects_NC = match_all(targets, predictions)
    ap, ap50 = average_precision(matches, objects_NC), average_precision(matches, objects_NC, thresholds=slice(1))
    np.testing.assert_allclose([ap, ap50], score_with_pycocotools(targets, predictions), rtol=0, atol=1e-9)


def test_only_the_best_hundred_detections_of_a_class_on_an_image_count():
    random = np.random.default_rng(0)
    targets, predictions = make_images(3)
    boxes = torch.tensor(draw_boxes(random, 350), dtype=torch.float32)
    boxes[300:] = targets[1]["boxes"][0]
    scores = torch.linspace(0.9, 0.1, 350)
    predictions[1] = {"boxes": boxes, "scores": scores, "labels": torch.tensor(random.integers(1, CLASSES, 350))}
    ap = average_precision(*match_all(targets, predictions))
    assert ap == pytest.approx(score_with_pycocotools(targets, predictions)[0], abs=1e-9)


def test_weights_stand_for_images_that_occur_several_times():
    targets, predictions = make_images(40, decimals=9)
    matches, objects_NC = match_all(targets, predictions)
    for seed in range(5):
        counts_N = np.bincount(np.random.default_rng(seed).integers(0, 40, 40), minlength=40)
        drawn = np.repeat(np.arange(40), counts_N)
        expected = score_with_pycocotools([targets[i] for i in drawn], [predictions[i] for i in drawn])[0]
        assert average_precision(matches, objects_NC, counts_N) == pytest.approx(expected, abs=1e-9)


def test_influences_have_the_spread_of_the_average_precision_of_resampled_images():
    """Both models are measured on the same 200 samples, from the stored matches."""
    num_images = 150
    targets, first = make_images(num_images, seed=3)
    models = [match_all(targets, each) for each in (first, make_images(num_images, seed=3, jitter=6.0)[1])]
    change_N2 = np.stack([measure_change(*each) for each in models], axis=1)
    np.testing.assert_allclose(change_N2.sum(axis=0), 0, atol=1e-12)
    random = np.random.default_rng(0)
    draws_RN = random.multinomial(num_images, np.full(num_images, 1 / num_images), size=200)
    exact_R2 = np.array([[average_precision(*each, counts_N) for each in models] for counts_N in draws_RN])
    assert_same_spread(draws_RN @ change_N2, exact_R2)


def count(targets, models):
    """Return the scores of several models in two batches."""
    counter = Detection(CLASSES).count_scores(len(models), torch.device("cpu"))
    for images in (slice(0, 7), slice(7, None)):
        groups = [
            (slice(row, row + 1), [{name: part[None] for name, part in image.items()} for image in model[images]])
            for row, model in enumerate(models)
        ]
        counter.add(iter(groups), targets[images])
    return counter.finish()


def test_scores_of_several_models():
    targets, first = make_images(20)
    second = make_images(20, jitter=8.0)[1]
    scores = count(targets, [first, second])
    expected = np.array([score_with_pycocotools(targets, model) for model in (first, second)])
    np.testing.assert_allclose(scores.accuracy_M, expected[:, 0], atol=1e-9)
    np.testing.assert_allclose(scores.loss_M, 1 - expected[:, 1], atol=1e-9)
    # The mean over the items is the metric, and the items of an image carry its influence.
    np.testing.assert_allclose(scores.influence_MN.mean(axis=1), scores.accuracy_M, atol=1e-6)
    changes = [measure_change(*match_all(targets, model)) for model in (first, second)]
    for influence_I, metric, change_N in zip(scores.influence_MN, scores.accuracy_M, changes, strict=True):
        of_images_N = np.bincount(scores.groups_N, influence_I - metric)
        np.testing.assert_allclose(of_images_N / len(influence_I), change_N, atol=1e-6)


def test_errors_are_missed_objects_and_false_boxes():
    box = [10.0, 10, 30, 30]
    target = {"boxes": torch.tensor([box, [40.0, 40, 60, 60], [0.0, 0, 60, 60]]), "labels": torch.tensor([1, 2, 3])}
    target["iscrowd"] = torch.tensor([0, 0, 1])
    found = {
        # right, a false box of the same class, too unsure to count, and inside of a crowd
        "boxes": torch.tensor([box, [45.0, 10, 60, 25], [40.0, 40, 60, 60], [5.0, 5, 20, 20]]),
        "scores": torch.tensor([0.9, 0.8, 0.4, 0.7]),
        "labels": torch.tensor([1, 1, 2, 3]),
    }
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    nothing = {**empty, "scores": torch.zeros(0)}
    scores = count([target, empty], [[found, nothing], [nothing, nothing]])
    assert scores.groups_N.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert scores.wrong_MN.astype(int).tolist() == [[0, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert scores.accuracy_M[1] == 0.0 and scores.loss_M[1] == 1.0


def test_a_model_that_is_less_sure_of_the_same_boxes_has_the_same_errors():
    targets, found = make_images(20)
    unsure = [{**image, "scores": 0.3 * image["scores"]} for image in found]
    scores = count(targets, [found, unsure])
    assert scores.accuracy_M[0] == scores.accuracy_M[1]
    assert np.array_equal(scores.wrong_MN[0], scores.wrong_MN[1]) and 0 < scores.wrong_MN[0].mean() < 1


def test_nan_scores_and_images_without_objects_are_allowed():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = {"boxes": torch.ones(1, 4), "scores": torch.tensor([torch.nan]), "labels": torch.tensor([1])}
    scores = count([empty] * 8, [[found] * 8])
    assert scores.accuracy_M.tolist() == [0.0] and np.isfinite(scores.influence_MN).all()


def test_the_loss_is_the_sum_of_the_networks_losses():
    losses = {"classes": torch.tensor(1.0), "boxes": torch.tensor(2.0)}
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": 3}

    def network(images, targets):
        assert len(images) == 1 and targets[0].keys() == {"boxes", "labels"}
        return losses

    assert Detection(CLASSES).compute_loss(network, [torch.zeros(3, 4, 4)], [target]) == 3


def test_agreement_is_the_share_of_images_with_the_same_sure_classes():
    def found(*labels):
        scores = torch.tensor([[0.9] * len(labels) + [0.1]])
        return {"labels": torch.tensor([[*labels, 7]]), "scores": scores}

    objective = Detection(CLASSES)
    assert objective.measure_agreement([found(1, 2), found(3)], [found(2, 1), found(2)]) == 0.5
