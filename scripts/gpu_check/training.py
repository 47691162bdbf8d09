"""The part that times training steps of the paper's networks in each precision, eager and compiled with CUDA graphs."""

from typing import Any

import torch

from scripts.benchmark.contest import read_peak, reset_peak
from scripts.gpu_check.findings import NEEDS_GPU, Findings
from scripts.gpu_check.subjects import BATCH, STAGES
from scripts.gpu_check.timing import TRAINER_PRECISIONS, Clock, Window, fit_stage, time_bare_steps

GOALS_MS = {"tf32": 3.0, "bf16-mixed": 1.5}
MODES = {"eager": None, "reduce-overhead": "reduce-overhead"}
FULL, TINY = (50, 400, 50), (2, 3, 1)  # steps of the warm-up, steps measured, steps after them


def run(findings: Findings, device: torch.device, rehearse: bool) -> None:
    """Measure every combination; compiled cases come last, since compiling takes longest."""
    rows: list[dict[str, Any]] = []
    title = f"a training step, batch {4 if rehearse else BATCH}"
    for mode in MODES:
        for network in STAGES:
            for precision in TRAINER_PRECISIONS:
                case = {"network": network, "precision": precision, "mode": mode}
                if device.type == "cpu" and (precision == "bf16-mixed" or MODES[mode]):
                    rows.append({**case, "ms": NEEDS_GPU, "goal, ms": GOALS_MS.get(precision)})
                else:
                    measured = findings.attempt(
                        f"{network}, {precision}, {mode}",
                        measure,
                        network,
                        precision,
                        compile_mode=MODES[mode],
                        device=device,
                        rehearse=rehearse,
                    )
                    rows.append({**case, **(measured or {"ms": "failed"})})
                findings.add_table(title, rows)


def measure(
    network: str, precision: str, *, compile_mode: str | None, device: torch.device, rehearse: bool
) -> dict[str, Any]:
    """Return a row with milliseconds per step under Lightning, without Lightning, and the peak of memory."""
    warmup, steps, rest = TINY if rehearse else FULL
    options = {"num_steps": warmup + steps + rest, "compile_mode": compile_mode}
    make, clock = STAGES[network], Clock(device)
    torch.compiler.reset()  # this frees the graphs of earlier cases, because torch limits recompilations
    before = reset_peak(device)
    fit_stage(make(rehearse, **options), Window(warmup, steps, clock), device, precision=precision)
    bytes_taken = None if before is None else max(0, read_peak(device) - before)
    torch.compiler.reset()
    bare_seconds = time_bare_steps(make(rehearse, **options), warmup, steps, device=device, precision=precision)
    return {
        "ms": 1000 * clock.seconds / steps,
        "goal, ms": GOALS_MS.get(precision),
        "ms without Lightning": 1000 * bare_seconds / steps,
        "peak, MB": None if bytes_taken is None else bytes_taken / 1e6,
    }
