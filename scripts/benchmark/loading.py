"""Contests of loading: rows of one memory-mapped matrix, against a DataLoader over one file per checkpoint."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from scripts.benchmark.contest import Contest

K, BATCH, EPOCHS = 200, 50, 5
CASES = {"D = 2,048": 2048, "D = 100,288": 100_288}


class OneFilePerCheckpoint(Dataset):
    """The dataset of the reference procedure, which opens one file per item."""

    def __init__(self, files: list[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return load_file(self.files[index])["vector"]


def make_contests(device: torch.device) -> Iterator[Contest]:
    """Yield a contest per size: five epochs in batches of 50, from opening the files to the last batch on `device`."""
    for case, num_params in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            vectors_KD = torch.randn(K, num_params)
            together = Path(folder) / "checkpoints.safetensors"
            subset = ParameterSubset(("weight",), ((num_params,),))
            CheckpointSet(
                rows=VectorRows([vectors_KD]), accuracy_K=torch.rand(K), subset=subset, network={}, settings={}
            ).save(together)
            files = [Path(folder) / f"{index:03}.safetensors" for index in range(K)]
            for vector_D, file in zip(vectors_KD, files, strict=True):
                save_file({"vector": vector_D.contiguous()}, file)
            yield Contest(
                "loading",
                case,
                f"batch of {BATCH}",
                ours=partial(draw_from_one_file, together, device),
                reference=partial(load_from_many_files, files, device),
                our_units=EPOCHS * K // BATCH,
                reference_units=EPOCHS * K // BATCH,
            )


def draw_from_one_file(path: Path, device: torch.device) -> None:
    """Draw batches from one file as our training stages do."""
    vectors_KD = CheckpointSet.load(path).vectors_KD.to(device)
    for _ in range(EPOCHS * K // BATCH):
        vectors_KD[torch.randperm(K, device=device)[:BATCH]]


def load_from_many_files(files: list[Path], device: torch.device) -> None:
    """Draw batches as the published code does, but keep workers alive between epochs, which favors the reference."""
    loader = DataLoader(OneFilePerCheckpoint(files), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in range(EPOCHS):
        for batch_BD in loader:
            batch_BD.to(device)
