"""Prove that no work is lost, and write what was tried and found.

    python -m scripts.prove kills         SIGKILL at 30 random moments; the same command again gives the same numbers
    python -m scripts.prove disk_full     a full disk in every stage: one sentence, and the same command resumes
    python -m scripts.prove overrides     500 random overrides of the configuration end without a traceback

Each proof stops at the first failure. `python -m scripts.measure proof_kills` keeps the result for docs/reliability.md.
"""

from pathlib import Path

from core.command_line.run_command import run_command
from core.runtime.artifacts import write_json
from scripts.console import make_parser, print_line
from scripts.prove.disk_full import prove_disk_full
from scripts.prove.kills import prove_kills
from scripts.prove.overrides import prove_overrides

PROOFS = {"kills": (prove_kills, 30), "disk_full": (prove_disk_full, 12), "overrides": (prove_overrides, 500)}


def main() -> None:
    """Run one proof and write its result."""
    parser = make_parser("python -m scripts.prove", __doc__)
    parser.add_argument("proof", choices=PROOFS, help="what to prove")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    parser.add_argument("--count", type=int, metavar="N", help="tries (default: 30 kills, 12 limits, 500 overrides)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/proofs"), metavar="FOLDER", help="folder (default: outputs/proofs)"
    )
    chosen = parser.parse_args()
    prove, count = PROOFS[chosen.proof]
    if chosen.count is not None and chosen.count < 1:
        parser.error(f"--count {chosen.count} is invalid: expected at least 1")
    result = prove(chosen.out.absolute() / chosen.proof, seed=chosen.seed, count=chosen.count or count)
    path = chosen.out / f"{chosen.proof}.json"
    write_json(path, result)
    print_line(f"wrote {path}")


if __name__ == "__main__":
    run_command(main)
