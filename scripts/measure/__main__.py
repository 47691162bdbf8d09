"""Measure again what README and docs quote, and write results/<name>.json.

    python -m scripts.measure quickstart          one or several names; without a name, the list of them
    python -m scripts.measure --stale             every measurement whose code has changed since

Run it on a machine with nothing else to do. `python -m scripts.update_docs` then writes the tables.
"""

import hashlib
import logging
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from core.command_line.run_command import run_command
from core.report.compared_runs import ComparedRun, read_runs
from core.runtime.artifacts import read_json
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT, collect_provenance, read_git_state
from core.runtime.source_code import find_files
from scripts.console import make_parser
from scripts.measure.catalogue import MEASUREMENTS, Measurement
from scripts.measure.result import RESULTS, Result, digest_files

log = logging.getLogger(__name__)


def main() -> None:
    """Run the chosen measurements one after the other."""
    parser = make_parser("python -m scripts.measure", __doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="measurements to run, from the list")
    parser.add_argument("--stale", action="store_true", help="run every measurement whose code has changed since")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - MEASUREMENTS.keys():
        parser.error(f"unknown measurement {min(unknown)!r}: expected any of {', '.join(MEASUREMENTS)}")
    names = chosen.names or (stale_names() if chosen.stale else [])
    if not names:
        listed = (f"{name:24}{measurement.title}" for name, measurement in MEASUREMENTS.items())
        sys.stdout.write("\n".join(listed) + "\n" if not chosen.stale else "no measurement is stale\n")
    for name in names:
        path = measure(name, MEASUREMENTS[name]).save()
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}; now run python -m scripts.update_docs\n")


def stale_names() -> list[str]:
    """Return the measurements without a result, and those whose code has changed since."""
    return [
        name for name in MEASUREMENTS if not (RESULTS / f"{name}.json").is_file() or Result.load(name).changed_files()
    ]


def measure(name: str, measurement: Measurement) -> Result:
    """Run the commands of a measurement, and return what they measured.

    Runs lie below outputs/results/ in a folder named after the digest of the code, so an interrupted measurement is
    resumed, and one of other code starts anew.

    Raises:
        UserError: The checkout has uncommitted changes, or a command fails.
    """
    if read_git_state().get("dirty"):
        raise UserError(
            "the checkout has uncommitted changes, so no commit would stand behind the numbers. Commit first."
        )
    code = digest_files(find_files(measurement.code))
    version = hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()[:8]
    out, data = f"outputs/results/{version}/{name}", f"param_data/results/{version}"
    steps = [step.replace("{out}", out).replace("{data}", data).replace("{name}", name) for step in measurement.steps]
    start = time.perf_counter()
    for step in steps:
        log.warning("%s: %s", name, step)
        run_step(step)
    return Result(
        name=name,
        command=f"python -m scripts.measure {name}",
        steps=steps,
        provenance={key: value for key, value in collect_provenance().items() if key != "command"},
        seconds=round(time.perf_counter() - start, 1),
        code=code,
        data=kept_runs(ROOT / out)
        if measurement.kept == "runs"
        else read_json(ROOT / out / f"{measurement.kept}.json"),
    )


def read_data(folder: Path, kept: str) -> Any:
    """Return what a measurement keeps of the output of its commands, as `Measurement.kept` says."""
    return kept_runs(folder) if kept == "runs" else read_json(folder / f"{kept}.json")


def run_step(step: str) -> None:
    """Run one command from the root of the repository with this Python; raise `UserError` where it fails."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    status = subprocess.run(shlex.split(step), cwd=ROOT, env=environment, check=False).returncode
    if status:
        raise UserError(f"the command ended with status {status}: {step}")


def kept_runs(folder: Path) -> list[dict[str, Any]]:
    """Return configuration and metrics.json of every run below a folder.

    Raises:
        UserError: A run cannot be read, or there is none.
    """
    runs, problems = read_runs(sorted(path.parent for path in folder.rglob("metrics.json")))
    if problems or not runs:
        raise UserError(f"{folder}: {'; '.join(problems) or 'no run was scored'}")
    return [kept_run(run, folder) for run in runs]


def kept_run(run: ComparedRun, folder: Path) -> dict[str, Any]:
    """Return what is kept of one run; its configuration without the machine's paths."""
    config = {name: section for name, section in run.files.config.items() if name not in ("hydra", "logger", "trainer")}
    return {"folder": str(run.files.path.relative_to(folder)), "config": config, "metrics": run.files.metrics}


if __name__ == "__main__":
    run_command(main)
