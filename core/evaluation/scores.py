"""Score tables: how M models of one source behave on one split.

M models · N images · D numbers in one flattened subset.
"""

import zipfile
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from core.runtime.artifacts import replacing
from core.runtime.errors import UserError


@dataclass(frozen=True)
class Vote:
    """All M models as one: the mean of their predicted probabilities."""

    accuracy: float
    loss: float
    ece: float


@dataclass(frozen=True)
class Scores:
    """Behaviour of M models on one split."""

    accuracy_M: np.ndarray  # in [0, 1]
    loss_M: np.ndarray  # mean negative log-likelihood in nats
    wrong_MN: np.ndarray | None  # bool: model m errs on image n; None for tasks without a right and wrong per image
    ece_M: np.ndarray | None = None  # expected calibration error in [0, 1], 15 bins; None where it is not defined
    vote: Vote | None = None


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
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "ScoreTable":
        """Read what `save` wrote.

        Raises:
            UserError: missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                scores = {split: cls._read_split(file, split) for split in file["splits"].tolist()}
                latents_ML = file["latents"] if "latents" in file else None
                return cls(
                    path.stem, file["vectors"], scores, str(file["identity"]), float(file["seconds"]), latents_ML
                )
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            zipfile.BadZipFile,
            TypeError,
        ) as error:  # TypeError: a plain array
            raise UserError(f"cannot read the scores in {path} ({error}); delete the file and run again") from error

    @staticmethod
    def _read_split(file: np.lib.npyio.NpzFile, split: str) -> Scores:
        wrong_MN = None
        if f"{split}/wrong" in file:
            wrong_MN = np.unpackbits(file[f"{split}/wrong"], axis=1, count=int(file[f"{split}/num_images"])).astype(
                bool
            )
        ece_M = file[f"{split}/ece"] if f"{split}/ece" in file else None
        vote = Vote(*file[f"{split}/vote"].tolist()) if f"{split}/vote" in file else None
        return Scores(file[f"{split}/accuracy"], file[f"{split}/loss"], wrong_MN, ece_M, vote)
