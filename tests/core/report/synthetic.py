"""Synthetic runs, made without training: vectors around a center, and errors computed from the vectors.

K originals · M models · N images · D numbers in one vector.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from core.evaluation.copying import Behavior, Closeness
from core.evaluation.groups import find_group
from core.evaluation.metrics import max_iou, min_l2, pair_with_others, summarize, within_iou
from core.evaluation.scores import Scores, ScoreTable
from core.evaluation.verdict import Comparison, Decision, Difference, Novelty, Standing, Verdict

TENSORS = ("layer4.1.bn1.weight", "layer4.1.bn1.bias", "layer4.1.bn2.weight", "layer4.1.bn2.bias")
SENTENCES = [
    "p_diff is better than the originals by 0.45 points (95% interval 0.41 to 0.49) "
    "and no newer than noise of σ = 0.05.",
    "Plain means of 16 checkpoints are as good as p_diff: the difference is −0.02 points (−0.05 to 0.01).",
    "No generated model is a near-copy of an original.",
]
MADE_UP = {  # measure of the similarity to the originals -> its ratio to the maximum IoU
    "kappa_mean": 1.03,
    "kappa_relative_mean": 1.05,
    "overlap_mean": 1.08,
    "nearest_relative": 0.7,
    "copies": 0.02,
    "deviation": 0.9,
    "outside_span": 0.1,
}
COSTS = {"p_diff": 6.0, "finetuned": 50.0}
PROVENANCE = {
    "command": ["train_p_diff.py", "task=digits", "output_dir=outputs/a & b"],
    "time": "2025-01-31T12:00:00+00:00",
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
    "python": "3.12.3",
    "versions": {"torch": "2.11.0", "numpy": "2.1.0"},
    "device": "x86_64",
    "cores": 2,
    "threads": 1,
}


def make_vectors(rng: np.random.Generator, k: int, m: int, d: int) -> dict[str, np.ndarray]:
    """Return {source: (M, D)} for 12 sources, made from K originals that vary in few directions."""
    scale = np.repeat([1.0, 0.1, 1.0, 0.1], -(-d // 4))[:d]
    center = np.repeat([1.0, 0.0, 1.2, 0.0], -(-d // 4))[:d] + 0.2 * scale * rng.normal(size=d)
    directions = rng.normal(size=(8, d)) * scale / np.sqrt(d)

    def around(count: int, spread: float, noise: float) -> np.ndarray:
        return (
            center
            + spread * rng.normal(size=(count, 8)) @ directions
            + noise * rng.normal(size=(count, d)) * scale / np.sqrt(d)
        )

    original = around(k, 1.0, 1.2)
    picked = original[rng.integers(0, k, m)]
    return {
        "original": original,
        "ensemble": original.mean(0, keepdims=True),
        "p_diff": around(m, 0.7, 0.35),
        "reconstructed": original + 0.3 * rng.normal(size=original.shape) * scale / np.sqrt(d),
        **{
            f"noised_{sigma}": picked + 20 * sigma * rng.normal(size=picked.shape) * scale / np.sqrt(d)
            for sigma in (0.01, 0.05, 0.15)
        },
        "average_16": np.stack([original[rng.choice(k, min(16, k), replace=False)].mean(0) for _ in range(m)]),
        "interpolated": (original[rng.integers(0, k, m)] + original[rng.integers(0, k, m)]) / 2,
        "gaussian": center + original.std(0) * rng.normal(size=(m, d)),
        "gaussian_full": around(m, 1.0, 1.2),
        "finetuned": around(m, 1.1, 0.9),
    }


def score(vectors_MD: np.ndarray, reference_KD: np.ndarray, difficulty_N: np.ndarray, readout_DN: np.ndarray) -> Scores:
    """Return scores whose errors grow with the distance from the center and depend on the direction."""
    offset_MD = (vectors_MD - reference_KD.mean(0)) / reference_KD.std(0)
    response_MN = offset_MD @ readout_DN / np.sqrt(len(readout_DN))
    wrong_MN = difficulty_N + 0.35 * response_MN + 0.02 * (response_MN**2).mean(1, keepdims=True) > 1.3
    accuracy_M = 1 - wrong_MN.mean(1)
    return Scores(accuracy_M, 0.1 + 2 * (1 - accuracy_M), wrong_MN, 0.3 * (1 - accuracy_M))


def make_row(table: ScoreTable, original: ScoreTable) -> dict[str, Any]:
    """Return a row of metrics.json; the measures of `MADE_UP` depend on the maximum IoU alone."""
    same = table.source == original.source
    others = pair_with_others(len(table.vectors_MD)) if same else None
    scores, l2_M = table.scores["test"], min_l2(table.vectors_MD, original.vectors_MD, same=same)
    row = {
        "source": table.source,
        "group": find_group(table.source).value,
        **summarize(scores.accuracy_M),
        "loss_mean": float(scores.loss_M.mean()),
        "ece_mean": float(scores.ece_M.mean()),
    }
    row["max_iou_mean"] = float(max_iou(scores.wrong_MN, original.scores["test"].wrong_MN, others).mean())
    row |= {name: share * row["max_iou_mean"] for name, share in MADE_UP.items()} | {"behavior": "samples"}
    if table.source in COSTS:
        row["gradient_evaluations"] = COSTS[table.source]
    row |= {
        "min_l2_mean": float(l2_M.mean()),
        "min_l2_relative_mean": float(l2_M.mean() / 2),
        "near_copies": float((l2_M < 1).mean()),
    }
    if row["n"] > 1:
        half = 2 * row["accuracy_std"] / row["n"] ** 0.5
        row |= {
            "within_iou_mean": within_iou(scores.wrong_MN),
            "accuracy_interval": [row["accuracy_mean"] - half, row["accuracy_mean"] + half],
        }
    return row


def make_votes(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of metrics["worth"] for one source, whose measures improve with the logarithm of the votes."""
    counts = [count for count in (1, 2, 5, 10, 20, 50, 100) if count < row["n"]] + [row["n"]]
    rows = []
    for count in counts:
        gain = row["ece_mean"] * np.log(count) / 20
        accuracy, loss = row["accuracy_mean"] + gain, row["loss_mean"] - 3 * gain
        rows.append(
            {
                "source": row["source"],
                "n_models": count,
                "accuracy": accuracy,
                "accuracy_interval": [accuracy - 0.012, accuracy + 0.012],
                "loss": loss,
                "loss_interval": [loss - 0.03, loss + 0.03],
                "temperature": 1.1 - gain,
                "brier": loss / 3,
                "ece": row["ece_mean"] - gain,
                "aurc": (1 - accuracy) / 8,
                "disagreement": 5 * gain if count > 1 else None,
                "auroc": {"phase_scrambled": 0.8 + gain, "splices": 0.7 + gain},
                "equivalent": ">5" if row["source"] == "finetuned" else 1 + 100 * gain,
            }
        )
    return rows


def standing(row: dict[str, Any]) -> Standing:
    return Standing(row["source"], row["n"], row["accuracy_mean"], row["max_iou_mean"])


def made_comparison(rank: int, row: dict[str, Any], ours: dict[str, Any]) -> Comparison:
    """Return a comparison whose decisions depend on its rank alone, so that every outcome occurs."""
    accuracy, iou = ours["accuracy_mean"] - row["accuracy_mean"], ours["max_iou_mean"] - row["max_iou_mean"]
    better, worse, undecided = Decision.BETTER, Decision.WORSE, Decision.UNDECIDED
    decisions = ((better, better), (better, worse), (worse, undecided), (undecided, undecided))[rank % 4]
    return Comparison(
        standing(row),
        Difference(accuracy, (accuracy - 0.001, accuracy + 0.001), decisions[0]),
        Difference(iou, (iou - 0.01, iou + 0.01), decisions[1]),
    )


def make_metrics(tables: dict[str, ScoreTable]) -> dict[str, Any]:
    """Return metrics.json as train_p_diff.py would write it, with fixed sentences as its verdict."""
    rows = [make_row(table, tables["original"]) for table in tables.values()]
    by_source = {row["source"]: row for row in rows}
    ours = by_source["p_diff"]
    comparisons = tuple(
        made_comparison(rank, row, ours)
        for rank, row in enumerate(row for row in rows if row["source"] not in ("p_diff", "ensemble"))
    )
    verdict = Verdict(
        p_diff=standing(ours),
        comparisons=comparisons,
        reference="average_16",
        answer=Decision.UNDECIDED,
        novelty=Novelty.AS_CLOSE,
        groups={source: find_group(source) for source in tables},
        closeness={
            source: Closeness(source, 0.5, 0.5, by_source[source]["copies"], 0.9, 0.8, 0.1, Behavior.SAMPLES)
            for source in ("p_diff", "average_16")
        },
        interval_level=0.964,
    )
    three = ("original", "ensemble", "p_diff")
    return {
        "table": rows,
        "worth": [vote for row in rows if row["n"] > 1 for vote in make_votes(row)],
        "paper_protocol": {source: by_source[source]["accuracy_best"] for source in three},
        "held_out_protocol": {source: by_source[source]["accuracy_median"] for source in three},
        "selection": [
            {"source": source, "chosen_by": by, "test_accuracy": by_source[source][f"accuracy_{which}"],
             "uses_test": by == "test_accuracy", "expected_accuracy": by_source[source]["accuracy_mean"],
             "expected_interval": [by_source[source]["accuracy_worst"], by_source[source]["accuracy_best"]]}
            for source in ("original", "p_diff")
            for by, which in (("val_accuracy", "median"), ("train_loss", "mean"), ("test_accuracy", "best"))
        ],
        "combination": [
            {"source": source, "method": method, "n_models": n, "accuracy": by_source[source]["accuracy_best"],
             "loss": 0.3123, "ece": 0.021}
            for source in ("original", "p_diff")
            for method, n in (("one model", 1), ("soft vote", ours["n"]), ("greedy soup", 5))
        ],
        "verdict": {**verdict.to_json(), "sentences": SENTENCES},
        "seconds": {
            "train_task": 63.2, "collect": 21.7, "autoencoder": 80.13, "diffusion": 41.0, "generate": 1.2, "score": 95.4
        },
    }  # fmt: skip


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    k: int = 40,
    m: int = 24,
    d: int = 64,
    n: int = 400,
    latent: int | None = 8,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write every file that a report reads and return the folder.

    Args:
        latent: The length of the latents; None makes a run without latents.
        settings: The overrides of config.yaml by dotted name.
    """
    rng = np.random.default_rng(seed)
    difficulty_N, readout_DN = rng.normal(size=n), rng.normal(size=(d, n))
    projection_DL = rng.normal(size=(d, latent or 1))
    tables = {}
    vectors = make_vectors(rng, k, m, d)
    for source, vectors_MD in vectors.items():
        scores = score(vectors_MD, vectors["original"], difficulty_N, readout_DN)
        latents_ML = ((vectors_MD - vectors["original"].mean(0)) @ projection_DL).astype(np.float32) if latent else None
        tables[source] = ScoreTable(source, vectors_MD.astype(np.float32), {"test": scores}, "made up", 1.0, latents_ML)
        tables[source].save(folder / "scores" / f"{source}.npz")
    (folder / "metrics.json").write_text(json.dumps(make_metrics(tables)))
    (folder / "provenance.json").write_text(json.dumps({"train": PROVENANCE, "test": PROVENANCE}))
    config = OmegaConf.create(
        {"mode": "train", "seed": 42, "output_dir": str(folder), "generation": {"num_models": m},
         "task": {"seed": 42, "epochs": 12, "data": {"dataset": "digits", "split_seed": 0},
                  "model": {"name": "resnet18"},
                  "param": {"path": "param_data/checkpoints.safetensors", "k": k, "subset": "last_norms"}},
         "system": {"name": "ae_ddpm", "latent_noise": 0.1, "sampler": {"name": "dpm_solver"}}}
    )  # fmt: skip
    for name, value in (settings or {}).items():
        OmegaConf.update(config, name, value)
    OmegaConf.save(config, folder / "config.yaml")
    write_histories(folder, rng, d)
    return folder


def write_histories(folder: Path, rng: np.random.Generator, d: int) -> None:
    """Write trajectories.npz and training_history.npz."""
    timesteps_S = np.linspace(999, 0, 12).astype(int)
    rise_S = 1 / (1 + np.exp((timesteps_S - 450) / 90))
    np.savez(
        folder / "trajectories.npz",
        timesteps_S=timesteps_S,
        accuracy_TS=0.1 + 0.8 * rise_S * (1 - 0.04 * rng.random((8, 12))),
    )
    sizes = [d // 4] * 3 + [d - 3 * (d // 4)]
    final_D = np.repeat([1.0, 0.0, 1.2, 0.0], sizes) + 0.1 * rng.normal(size=d)
    start_D = np.repeat([1.0, 0.0, 1.0, 0.0], sizes)
    history_ED = start_D + (1 - np.exp(-np.arange(30) / 8))[:, None] * (final_D - start_D)
    np.savez(
        folder / "training_history.npz", history_ED=history_ED, names=np.array(list(TENSORS)), sizes=np.array(sizes)
    )
