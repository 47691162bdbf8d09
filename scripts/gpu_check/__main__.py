"""A check on a GPU: tests, both commands, speeds and profiles in 8 minutes each, and p-diff's releases in 30 minutes.

bash scripts/gpu_check.sh
bash scripts/gpu_check.sh --only scoring --only training --out outputs/gpu_check
bash scripts/gpu_check.sh --rehearse --out outputs/rehearsal
"""

import sys
from pathlib import Path

# These modules need the standard library alone. The other modules are imported once no package is missing.
from scripts.console import make_parser, print_line
from scripts.gpu_check.packages import explain_missing, find_missing_packages
from scripts.gpu_check.parts import PARTS, Part


def main() -> int:
    """Run the chosen parts; return the exit status, which is 1 if a part failed."""
    note = "Without a GPU it describes the parts and exits with 0."
    parser = make_parser("bash scripts/gpu_check.sh", __doc__, note)
    parser.add_argument(
        "--only",
        action="append",
        metavar="PART",
        help=f"run this part; may be repeated: {', '.join(part.name for part in PARTS)} (default: every part)",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="run the parts at a tiny size on the CPU to see that they run; times then mean nothing (default: off)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/gpu_check"),
        metavar="FOLDER",
        help="folder for gpu_check.md, gpu_check.json and the log of each part (default: %(default)s)",
    )
    chosen = parser.parse_args()
    parts = choose_parts(chosen.only)
    if missing := find_missing_packages():
        sys.exit(explain_missing(missing))
    return check(parts, chosen.out.absolute(), chosen.rehearse)


def choose_parts(names: list[str] | None) -> list[Part]:
    """Return the named parts, or all parts, in their usual order; end the process at an unknown name."""
    known = [part.name for part in PARTS]
    for name in names or ():
        if name not in known:
            sys.exit(f"error: --only {name} is unknown. Set --only to one of {', '.join(known)}")
    return [part for part in PARTS if not names or part.name in names]


def check(parts: list[Part], out: Path, rehearse: bool) -> int:
    """Run the parts and write the results; without a GPU describe the parts instead. Return the exit status."""
    import torch

    from core.runtime.artifacts import replace_atomically, write_json
    from scripts.gpu_check.report import collect_results, describe_plan, format_page
    from scripts.gpu_check.running import run_parts

    if not rehearse and not torch.cuda.is_available():
        print_line(describe_plan(parts))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    outcomes = run_parts(parts, out, rehearse)
    text = format_page(outcomes, rehearse)
    write_json(out / "gpu_check.json", collect_results(outcomes, rehearse))
    with replace_atomically(out / "gpu_check.md") as temporary:
        temporary.write_text(text + "\n")
    failed = [outcome.part.name for outcome in outcomes if outcome.result != "passed"]
    print_line(f"\n{text}\n\nwrote: {out}/gpu_check.md and {out}/gpu_check.json")
    if failed:
        logs = ", ".join(f"{out}/{name}.log" for name in failed)
        print_line(f"next: read {logs}, then bash scripts/gpu_check.sh {' '.join(f'--only {name}' for name in failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
