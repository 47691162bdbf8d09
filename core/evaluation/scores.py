"""Score tables, which hold the vectors and the scores of M models of one source.

M models · N items · P numbers of models that vote · D numbers in one flattened subset.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from core.checkpoints.subset import ParameterSubset
from core.evaluation.kinds import Kind, infer_kind
from core.runtime.arrays import open_arrays, save_arrays


@dataclass(frozen=True)
class Metric:
    """The measure by which models are compared."""

    name: str
    unit: str
    higher_is_better: bool
    in_percent: bool = False  # whether values are shares in [0, 1] that are shown in percent
    note: str = ""  # how it is measured, for the legends of tables

    @property
    def sign(self) -> int:
        """The factor of 1 or -1 that makes higher values better."""
        return 1 if self.higher_is_better else -1

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Metric":
        """Return the primary metric that `write` added to the content of a JSON file; accuracy if there is none."""
        return cls(**content["metric"]) if "metric" in content else ACCURACY

    def write(self) -> dict[str, Any]:
        """Return the entry of a JSON file. It is empty for accuracy, which earlier versions did not name."""
        return {} if self == ACCURACY else {"metric": asdict(self)}


OOD = "ood/"  # prefix of the arrays of images that belong to no class
ACCURACY = Metric("accuracy", "share of images", higher_is_better=True, in_percent=True)
MAX_IOU = Metric("max_iou", "share of the images that either model gets wrong", higher_is_better=False)


@dataclass(frozen=True)
class Votes:
    """Soft votes of the first n models of a source in a random order, for several n, on one split.

    A soft vote averages the predicted probabilities. A temperature divides the logarithms of the average (Guo et al.
    2017), because the likelihoods of votes are comparable only at their best temperatures (Ashukha et al. 2020).
    """

    counts_P: np.ndarray  # int64, ascending: 1, 2, 5, 10, 20, 50, 100, … and M itself
    temperature_P: np.ndarray  # of the loss, the Brier score and the confidence; 1 where none was fitted in advance
    loss_PN: np.ndarray  # negative log-likelihood in nats
    brier_PN: np.ndarray  # Brier score, summed over the classes
    confidence_PN: np.ndarray  # largest probability
    wrong_PN: np.ndarray  # bool
    disagreement_PN: np.ndarray  # share of pairs of the n models that predict different classes; NaN for n = 1
    fitted_P: np.ndarray | None = None  # temperatures with the least loss on this split; None if they were not fitted


@dataclass(frozen=True)
class Scores:
    """The scores of M models on one split."""

    accuracy_M: np.ndarray  # values of the primary metric; an accuracy is in [0, 1]
    loss_M: np.ndarray  # mean negative log-likelihood in nats
    wrong_MN: np.ndarray | None  # bool: model m errs on item n; None if the task does not define errors per item
    ece_M: np.ndarray | None = None  # expected calibration error in [0, 1], 15 bins; None if it is not defined
    votes: Votes | None = None  # None if the task does not define votes
    metric: Metric = ACCURACY  # the primary metric, which `accuracy_M` holds
    loss_MN: np.ndarray | None = None  # float16: negative log-likelihood of each model on each item
    groups_N: np.ndarray | None = None  # int64: group of each item; None if every item is a group of its own
    # float32: the primary metric of a model plus N times its change when this item is drawn once more, to first order.
    # Its mean over the items is the metric. None if the metric is the share of correct items, or its items are unknown.
    influence_MN: np.ndarray | None = None

    @property
    def quality_M(self) -> np.ndarray:
        """The primary metric (M,), negated if lower is better, so that higher is always better."""
        return self.metric.sign * self.accuracy_M

    @property
    def num_items(self) -> int | None:
        """The number of items whose errors or influences are known, N; None if neither are."""
        known = (array.shape[1] for array in (self.wrong_MN, self.influence_MN) if array is not None)
        return next(known, None)

    @property
    def has_influence(self) -> bool:
        """Whether it is known how much each item adds to the primary metric, so that items can be resampled for it."""
        return self.influence_MN is not None or (
            self.wrong_MN is not None
            and (self.metric == ACCURACY or np.allclose(self.accuracy_M, 1 - self.wrong_MN.mean(axis=1)))
        )

    def read_influence(self, items: np.ndarray) -> np.ndarray:
        """Return the influence of some items on the primary metric of each model, (M, number of items) float64.

        Raises:
            ValueError: The influence of the items is unknown.
        """
        if not self.has_influence:
            raise ValueError(
                "it is unknown how much each item adds to the metric. Score a task that fills influence_MN"
            )
        if self.influence_MN is not None:
            return self.influence_MN[:, items].astype(np.float64)
        return 1.0 - self.require_wrong()[:, items]

    def require_wrong(self) -> np.ndarray:
        """Return a mask of the items that each model gets wrong (M, N).

        Raises:
            ValueError: The task does not define errors per item.
        """
        if self.wrong_MN is None:
            raise ValueError(
                "wrong_MN is None, so it is unknown which items are wrong. Score a task that fills wrong_MN"
            )
        return self.wrong_MN

    def rank(self) -> np.ndarray:
        """Return the indices of the models (M,) from best to worst by the primary metric; lower loss breaks ties."""
        return np.lexsort((self.loss_M, -self.quality_M))

    def pick_best(self) -> int:
        """Return the index of the best model by the primary metric."""
        return int(self.rank()[0])

    def pick_least_loss(self) -> int:
        """Return the index of the model with the lowest loss; the primary metric breaks ties."""
        return int(np.lexsort((-self.quality_M, self.loss_M))[0])


class ScoreFn(Protocol):
    """A function that scores models on one split."""

    def __call__(self, vectors_MD: Tensor, temperature_P: np.ndarray | None = None, /) -> Scores:
        """Return the scores of vectors (M, D) on the CPU, with votes at these temperatures; None fits temperatures."""


@dataclass(frozen=True)
class ScoreTable:
    """The vectors of one source and their scores by split ("train", "val", "test")."""

    source: str
    vectors_MD: np.ndarray
    scores: dict[str, Scores]
    identity: str  # JSON of everything that the numbers depend on, which `core.evaluation.store` compares
    seconds: float  # duration of scoring
    latents_ML: np.ndarray | None = None  # standardized latents from the generator's encoder
    stored_kind: Kind | None = None  # None in tables of earlier versions, which did not store it
    # For each set of images that belong to no class, the confidence of the votes (P, N) at validation's temperatures.
    ood: Mapping[str, np.ndarray] = field(default_factory=dict)
    # The meaning of the numbers of a vector, if they act only through products; None for plain parameters.
    subset: ParameterSubset | None = None

    @property
    def kind(self) -> Kind:
        """The stored kind, or the kind inferred from the name if none is stored."""
        return self.stored_kind or infer_kind(self.source)

    def save(self, path: Path) -> None:
        """Write one npz atomically, with the masks of wrong images packed into bits."""
        arrays = {
            "identity": np.array(self.identity),
            "seconds": np.array(self.seconds),
            "vectors": self.vectors_MD,
            "splits": np.array(sorted(self.scores)),
            **{f"{OOD}{name}": confidence_PN for name, confidence_PN in self.ood.items()},
        }
        if self.latents_ML is not None:
            arrays["latents"] = self.latents_ML
        if self.stored_kind is not None:
            arrays["kind"] = np.array(self.stored_kind.value)
        if self.subset is not None:
            arrays["subset"] = np.array(json.dumps(self.subset.to_metadata()))
        for split, scores in self.scores.items():
            arrays |= {f"{split}/accuracy": scores.accuracy_M, f"{split}/loss": scores.loss_M}
            if scores.wrong_MN is not None:
                arrays |= {
                    f"{split}/wrong": np.packbits(scores.wrong_MN, axis=1),
                    f"{split}/num_images": np.array(scores.wrong_MN.shape[1]),
                }
            if scores.ece_M is not None:
                arrays[f"{split}/ece"] = scores.ece_M
            for name in ("loss_MN", "groups_N", "influence_MN"):
                if (array := getattr(scores, name)) is not None:
                    arrays[f"{split}/{name}"] = array
            if scores.votes is not None:
                given = {name: array for name, array in vars(scores.votes).items() if array is not None}
                arrays |= {f"{split}/votes/{name}": array for name, array in given.items()}
            if scores.metric != ACCURACY:
                arrays |= {f"{split}/metric/{name}": np.array(value) for name, value in vars(scores.metric).items()}
        save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "ScoreTable":
        """Read a file that `save` wrote.

        Raises:
            UserError: The file is missing or damaged.
        """
        with open_arrays(
            path, content="scores", advice="train_p_diff.py with mode=train scores this source again"
        ) as file:
            return cls(
                path.stem,
                file["vectors"],
                {split: cls._read_split(file, split) for split in file["splits"].tolist()},
                str(file["identity"]),
                float(file["seconds"]),
                file.get("latents"),
                Kind(str(file["kind"])) if "kind" in file else None,
                select_prefix(file, OOD),
                ParameterSubset.from_metadata(json.loads(str(file["subset"]))) if "subset" in file else None,
            )

    @staticmethod
    def _read_split(file: Mapping[str, np.ndarray], split: str) -> Scores:
        wrong_MN = None
        if f"{split}/wrong" in file:
            num_images = int(file[f"{split}/num_images"])
            wrong_MN = np.unpackbits(file[f"{split}/wrong"], axis=1, count=num_images).astype(bool)
        votes = select_prefix(file, f"{split}/votes/")
        metric = ACCURACY
        if f"{split}/metric/name" in file:
            metric = Metric(**{name: array.item() for name, array in select_prefix(file, f"{split}/metric/").items()})
        return Scores(
            file[f"{split}/accuracy"],
            file[f"{split}/loss"],
            wrong_MN,
            file.get(f"{split}/ece"),
            Votes(**votes) if votes else None,
            metric,
            file.get(f"{split}/loss_MN"),
            file.get(f"{split}/groups_N"),
            file.get(f"{split}/influence_MN"),
        )


def select_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names start with a prefix, named without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
