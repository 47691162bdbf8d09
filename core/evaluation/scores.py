"""Score tables: how M models of one source behave on one split.

M models · N images · D numbers in one flattened subset.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from core.evaluation.arrays import reading_arrays
from core.evaluation.kinds import Kind, kind_of
from core.runtime.artifacts import replacing


@dataclass(frozen=True)
class Metric:
    """A measure by which models are compared."""

    name: str
    unit: str
    higher_is_better: bool

    @property
    def sign(self) -> int:
        """Factor that turns the values into ones of which more is better."""
        return 1 if self.higher_is_better else -1


ACCURACY = Metric("accuracy", "share of images", higher_is_better=True)
MAX_IOU = Metric("max_iou", "share of the images that either model gets wrong", higher_is_better=False)


@dataclass(frozen=True)
class Vote:
    """All M models as one: the mean of their predicted probabilities."""

    accuracy: float
    loss: float
    ece: float


@dataclass(frozen=True)
class Scores:
    """Behaviour of M models on one split."""

    accuracy_M: np.ndarray  # the primary metric; an accuracy is in [0, 1]
    loss_M: np.ndarray  # mean negative log-likelihood in nats
    wrong_MN: np.ndarray | None  # bool: model m errs on item n; None for tasks without a right and wrong per item
    ece_M: np.ndarray | None = None  # expected calibration error in [0, 1], 15 bins; None where it is not defined
    vote: Vote | None = None
    metric: Metric = ACCURACY  # what `accuracy_M` holds

    @property
    def goodness_M(self) -> np.ndarray:
        """The primary metric, turned around where less of it is better (M,)."""
        return self.metric.sign * self.accuracy_M

    def known_wrong(self) -> np.ndarray:
        """Return which items each model gets wrong (M, N).

        Raises:
            ValueError: the task has no right and wrong per item.
        """
        if self.wrong_MN is None:
            raise ValueError("these scores do not say which items are wrong; score a task that has such")
        return self.wrong_MN

    def ranking(self) -> np.ndarray:
        """Return the models from the best to the worst by the primary metric; the lowest loss first among equals."""
        return np.lexsort((self.loss_M, -self.goodness_M))

    def best(self) -> int:
        """Return the model that a user would pick on this split."""
        return int(self.ranking()[0])

    def least_loss(self) -> int:
        """Return the model of the lowest loss on this split; the best by the primary metric among equals."""
        return int(np.lexsort((-self.goodness_M, self.loss_M))[0])


ScoreFn = Callable[[Tensor], Scores]  # vectors (M, D) on the CPU -> their scores


@dataclass(frozen=True)
class ScoreTable:
    """One source: its vectors and their scores by split ("val", "test")."""

    source: str
    vectors_MD: np.ndarray
    scores: dict[str, Scores]
    identity: str  # of everything the numbers depend on; a table is reused only under the same one
    seconds: float  # that scoring took
    latents_ML: np.ndarray | None = None  # standardized, from the generator's encoder
    stored_kind: Kind | None = None  # None where the table is from a version that did not store it

    @property
    def kind(self) -> Kind:
        """The stored kind, else the one that the name says."""
        return self.stored_kind or kind_of(self.source)

    def save(self, path: Path) -> None:
        """Write one npz, whole or not at all; wrong-image masks are packed to bits."""
        arrays = {
            "identity": np.array(self.identity),
            "seconds": np.array(self.seconds),
            "vectors": self.vectors_MD,
            "splits": np.array(sorted(self.scores)),
        }
        if self.latents_ML is not None:
            arrays["latents"] = self.latents_ML
        if self.stored_kind is not None:
            arrays["kind"] = np.array(self.stored_kind.value)
        for split, scores in self.scores.items():
            arrays |= {f"{split}/accuracy": scores.accuracy_M, f"{split}/loss": scores.loss_M}
            if scores.wrong_MN is not None:
                arrays |= {
                    f"{split}/wrong": np.packbits(scores.wrong_MN, axis=1),
                    f"{split}/num_images": np.array(scores.wrong_MN.shape[1]),
                }
            if scores.ece_M is not None:
                arrays[f"{split}/ece"] = scores.ece_M
            if scores.vote is not None:
                arrays[f"{split}/vote"] = np.array(astuple(scores.vote))
            if scores.metric != ACCURACY:
                arrays |= {f"{split}/metric/{name}": np.array(value) for name, value in vars(scores.metric).items()}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # no array here is named like an option of savez

    @classmethod
    def load(cls, path: Path) -> "ScoreTable":
        """Read what `save` wrote.

        Raises:
            UserError: missing or damaged.
        """
        with reading_arrays(path, content="scores", advice="delete the file and run again") as file:
            return cls(
                path.stem,
                file["vectors"],
                {split: cls._read_split(file, split) for split in file["splits"].tolist()},
                str(file["identity"]),
                float(file["seconds"]),
                file.get("latents"),
                Kind(str(file["kind"])) if "kind" in file else None,
            )

    @staticmethod
    def _read_split(file: np.lib.npyio.NpzFile, split: str) -> Scores:
        wrong_MN = None
        if f"{split}/wrong" in file:
            num_images = int(file[f"{split}/num_images"])
            wrong_MN = np.unpackbits(file[f"{split}/wrong"], axis=1, count=num_images).astype(bool)
        vote = Vote(*file[f"{split}/vote"].tolist()) if f"{split}/vote" in file else None
        metric = ACCURACY
        if f"{split}/metric/name" in file:
            name, unit, higher = (file[f"{split}/metric/{part}"] for part in ("name", "unit", "higher_is_better"))
            metric = Metric(str(name), str(unit), bool(higher))
        return Scores(
            file[f"{split}/accuracy"], file[f"{split}/loss"], wrong_MN, file.get(f"{split}/ece"), vote, metric
        )
