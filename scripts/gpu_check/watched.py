"""The runner that records a script's peak of memory: python -m scripts.gpu_check.watched RECORD SCRIPT [arguments]."""

import runpy
import sys
import time
from pathlib import Path

import torch

from core.runtime.artifacts import write_json
from scripts.benchmark.contest import read_peak


def main() -> None:
    """Run the script as __main__; write its seconds and peak bytes to RECORD, even if it fails."""
    record, *sys.argv = sys.argv[1:]
    start = time.perf_counter()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        on_gpu = torch.cuda.is_initialized()
        write_json(
            Path(record),
            {
                "seconds": time.perf_counter() - start,
                "gpu_bytes": read_peak(torch.device("cuda")) if on_gpu else None,
                "process_bytes": read_peak(torch.device("cpu")),
            },
        )


if __name__ == "__main__":
    main()
