"""Check of everything that only a GPU can show, in parts that each end within 8 minutes.

    bash scripts/gpu_check.sh [--only PART] [--rehearse] [--out FOLDER]

Prints Markdown tables for docs/performance.md; gpu_check.md, gpu_check.json and the log of each part go to the folder.
"""

import argparse
import sys
from pathlib import Path

from scripts.gpu_check.packages import advice, missing_packages  # nothing else yet: packages may be missing
from scripts.gpu_check.parts import PARTS, Part


def main() -> int:
    """Run the chosen parts; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(prog="bash scripts/gpu_check.sh", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        metavar="PART",
        help=f"run this part, may be repeated: {', '.join(part.name for part in PARTS)}",
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="run every part at a tiny size on the CPU, where its times mean nothing"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/gpu_check"), help="folder of the results (default outputs/gpu_check)"
    )
    chosen = parser.parse_args()
    parts = chosen_parts(chosen.only)
    if wrong := missing_packages():
        sys.exit(advice(wrong))
    return check(parts, chosen.out.absolute(), chosen.rehearse)


def chosen_parts(names: list[str] | None) -> list[Part]:
    """Return the parts of these names, or all of them, in their usual order; an unknown name ends the command."""
    known = [part.name for part in PARTS]
    for name in names or ():
        if name not in known:
            sys.exit(f"error: --only {name}: there is no such part; give one of {', '.join(known)}")
    return [part for part in PARTS if not names or part.name in names]


def check(parts: list[Part], out: Path, rehearse: bool) -> int:
    """Run the parts and report them, or say what they would do where there is no GPU to run them on."""
    import torch

    from core.runtime.artifacts import replacing, write_json
    from scripts.gpu_check.report import as_json, as_text, plan
    from scripts.gpu_check.running import run_parts, say

    if not rehearse and not torch.cuda.is_available():
        say(plan(parts))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    outcomes = run_parts(parts, out, rehearse)
    text = as_text(outcomes, rehearse)
    write_json(out / "gpu_check.json", as_json(outcomes, rehearse))
    with replacing(out / "gpu_check.md") as temporary:
        temporary.write_text(text + "\n")
    say(f"\n{text}\n\nwritten to {out}/gpu_check.md and gpu_check.json")
    return int(any(outcome.result != "passed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
