"""The part that scores 200 ResNet-18 on 10,000 small images: time, arithmetic, and agreement with fp32."""

from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.checkpoints.subset import unflatten
from scripts.benchmark.contest import measure_cost
from scripts.gpu_check.findings import NEEDS_GPU, Findings
from scripts.gpu_check.subjects import Classified, make_resnet18
from scripts.gpu_check.timing import SCORING_PRECISIONS
from tasks.scoring.frozen_prefix import split_network
from tasks.scoring.scorer import Scorer, ScoringSpec

GOALS_S = {"tf32": 1.0}


def run(findings: Findings, device: torch.device, rehearse: bool) -> None:
    """Score the same vectors in each precision."""
    subject = make_resnet18(rehearse)
    compare_precisions(findings, "ResNet-18", subject, device=device, goals_s=GOALS_S)


def compare_precisions(
    findings: Findings, network: str, subject: Classified, *, device: torch.device, goals_s: dict[str, float]
) -> None:
    """Score the vectors in each precision; add a table with one row per precision."""
    num_models, num_images, size = len(subject.vectors_MD), len(subject.images), subject.image_size
    title = f"scoring {num_models} {network} on {num_images:,} images of {size}×{size}"
    rows: list[dict[str, Any]] = []
    flops, exact_wrong_MN = count_suffix_flops(subject), None
    for precision in SCORING_PRECISIONS:
        if device.type == "cpu" and precision != "fp32":
            rows.append({"precision": precision, "seconds": NEEDS_GPU, "goal, s": goals_s.get(precision)})
        elif found := findings.attempt(precision, score, subject, precision, flops, device=device):
            row, wrong_MN = found
            exact_wrong_MN = wrong_MN if precision == "fp32" else exact_wrong_MN
            if exact_wrong_MN is not None and wrong_MN is not None:
                row["images judged as in fp32, %"] = 100 * float(np.mean(wrong_MN == exact_wrong_MN))
            rows.append({**row, "goal, s": goals_s.get(precision)})
        else:
            rows.append({"precision": precision, "seconds": "failed"})
        findings.add_table(title, rows)


def make_scorer(subject: Classified, precision: str, device: torch.device) -> Scorer:
    """Return the pipeline's scorer with default settings for this device and precision."""
    data = subject.data
    return Scorer(
        subject.model,
        subject.subset,
        data.test,
        objective=data.objective,
        normalize=data.make_normalizer(),
        options=ScoringSpec(device=device, precision=precision),
    )


def score(
    subject: Classified, precision: str, flops: int, *, device: torch.device
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Score twice, the second time with the frozen part cached; return the row and the wrong images (M, N)."""
    scorer = make_scorer(subject, precision, device)
    scores = []
    first = measure_cost(lambda: scores.append(scorer(subject.vectors_MD)), device)
    again = measure_cost(lambda: scores.append(scorer(subject.vectors_MD)), device)
    total = flops * len(subject.images) * len(subject.vectors_MD)
    row: dict[str, Any] = {
        "precision": precision,
        "seconds": again.seconds,
        "first call, s": first.seconds,
        "TFLOP": total / 1e12,
        "TFLOP/s": total / 1e12 / again.seconds,
        "predictions of fp32, %": None if scorer.agreement is None else 100 * scorer.agreement,
        "peak, MB": None if first.peak_bytes is None else first.peak_bytes / 1e6,
    }
    return row, scores[-1].wrong_MN


def count_suffix_flops(subject: Classified) -> int:
    """Return the floating-point operations that depend on the generated parameters, for one model and one image.

    Two images are counted, since a batch of one could be traced as a special case.
    """
    images_BCSS = subject.data.make_normalizer()(torch.stack([subject.images[index][0] for index in range(2)]))
    network = split_network(subject.model.cpu(), subject.subset.names, images_BCSS)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        crossing = network.cache(images_BCSS)
        before = counter.get_total_flops()
        network.run(crossing, unflatten(subject.vectors_MD[0], subject.subset))
    return (counter.get_total_flops() - before) // 2
