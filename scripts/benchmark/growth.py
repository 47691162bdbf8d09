"""The cost of training an autoencoder as D grows; each size runs in a new process, so that peaks of memory do not mix.

K checkpoints · D numbers in one flattened subset.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.normalizer import Normalizer
from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.networks.autoencoder import Autoencoder, ConvAutoencoder
from core.networks.linear_autoencoders import ChunkedAutoencoder
from core.report.cells import markdown
from core.training.stage_modules import AutoencoderModule
from scripts.benchmark.contest import read_peak, synchronize

SIZES = ((200, 2_048), (50, 100_000), (50, 1_000_000), (400, 1_000_000), (50, 10_000_000))  # (K, D)
# Largest D for the paper's autoencoder. One step took two minutes and 22 GB at D = 100,000, and its cost grows like D.
LARGEST_PAPER_SIZE = 2_048
PAPER_GIGABYTES = {2_048: 0.658, 100_000: 13.4}  # published peaks at D = 2,048 and 100,288 with batch 50 (p-diff v3)
BATCH, STEPS, PAPER_STEPS = 50, 8, 2
RANK_OF_DATA = 20  # the number of directions in which the checkpoints differ, besides noise


def measure_growth(device: torch.device) -> tuple[list[dict[str, Any]], str]:
    """Measure every size; return the rows and their Markdown table."""
    rows = []
    for num_checkpoints, num_params in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoints.safetensors"
            run_in_new_process(partial(write_checkpoints, path, num_checkpoints, num_params))
            row = {
                "k": num_checkpoints,
                "d": num_params,
                "file_bytes": sum(file.stat().st_size for file in path.parent.iterdir()),
            }
            chunked = run_in_new_process(partial(train, ChunkedAutoencoder, STEPS, path, device=device))
            row |= {f"chunked_{name}": value for name, value in chunked.items()}
            if num_params <= LARGEST_PAPER_SIZE:
                paper = run_in_new_process(partial(train, ConvAutoencoder, PAPER_STEPS, path, device=device))
                row |= {f"paper_{name}": value for name, value in paper.items()}
            rows.append(row)
    return rows, format_table(rows)


def run_in_new_process(run: Callable[[], Any]) -> Any:
    """Call `run` in a new process and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(run).result()


def write_checkpoints(path: Path, num_checkpoints: int, num_params: int) -> None:
    """Write K vectors that differ in a few directions and by a little noise, like checkpoints of one training run."""
    torch.manual_seed(0)
    vectors_KD = 0.1 * torch.randn(num_checkpoints, num_params)
    vectors_KD.addmm_(torch.randn(num_checkpoints, RANK_OF_DATA), torch.randn(RANK_OF_DATA, num_params))
    subset = ParameterSubset(("weight",), ((num_params,),))
    CheckpointSet(
        rows=VectorRows([vectors_KD]), accuracy_K=torch.rand(num_checkpoints), subset=subset, network={}, settings={}
    ).save(path)


def train(kind: Callable[[int], Autoencoder], num_steps: int, path: Path, *, device: torch.device) -> dict[str, float]:
    """Load, adapt and train; return seconds before the first step, seconds per later step and peak bytes."""
    start = time.perf_counter()
    checkpoints = CheckpointSet.load(path)
    normalizer = Normalizer.per_tensor(checkpoints.rows, checkpoints.subset)
    autoencoder = kind(checkpoints.subset.num_params)
    prepared_K = autoencoder.adapt(
        lambda part: normalizer.select_columns(part).normalize(checkpoints.rows.columns(part)), len(checkpoints)
    )
    rows = (checkpoints.rows, normalizer) if prepared_K is None else (prepared_K,)
    module = AutoencoderModule(
        autoencoder,
        *rows,
        make_optimizer=partial(torch.optim.AdamW, lr=1e-3),
        num_steps=num_steps,
        batch_size=BATCH,
        seed=0,
    )
    module.to(device).train()
    optimizer = module.make_optimizer(module.get_trained_parameters())
    ends = [time.perf_counter()]
    for _ in range(num_steps):
        optimizer.zero_grad()
        module.loss(module.draw_batch()).backward()
        optimizer.step()
        synchronize(device)
        ends.append(time.perf_counter())
    return {
        "before_seconds": ends[0] - start,
        "step_seconds": (ends[-1] - ends[1]) / (num_steps - 1),
        "peak_bytes": read_peak(device),
    }


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table with one line per size."""
    header = [
        "K",
        "D",
        "file, GB",
        "chunked: read and adapt, s",
        "step, ms",
        "peak, GB",
        "paper's: step, ms",
        "peak, GB",
        "published peak, GB",
    ]
    cells = []
    for row in rows:
        published = PAPER_GIGABYTES.get(row["d"])
        cells.append(
            [
                str(row["k"]),
                f"{row['d']:,}",
                f"{row['file_bytes'] / 1e9:.2f}",
                f"{row['chunked_before_seconds']:.1f}",
                f"{1000 * row['chunked_step_seconds']:.0f}",
                f"{row['chunked_peak_bytes'] / 1e9:.2f}",
                f"{1000 * row['paper_step_seconds']:.0f}" if "paper_step_seconds" in row else "–",
                f"{row['paper_peak_bytes'] / 1e9:.2f}" if "paper_peak_bytes" in row else "–",
                f"{published}" if published else "–",
            ]
        )
    return markdown(header, cells)
