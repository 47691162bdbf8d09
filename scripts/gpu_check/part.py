"""The process that runs one part: python -m scripts.gpu_check.part NAME --findings FILE [--rehearse]."""

import argparse
import importlib
from pathlib import Path

from core.command_line.run_command import run_command
from core.runtime.trainer import pick_device
from scripts.gpu_check.findings import Findings
from scripts.gpu_check.parts import PARTS


def main() -> int:
    """Run the part; return the exit status, which is 1 if one of its cases failed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.gpu_check.part")
    parser.add_argument("name", choices=[part.name for part in PARTS])
    parser.add_argument("--findings", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args()
    findings = Findings(chosen.findings)
    device = pick_device("cpu" if chosen.rehearse else "auto")
    importlib.import_module(f"scripts.gpu_check.{chosen.name}").run(findings, device, chosen.rehearse)
    return 1 if findings.content["failures"] else 0


if __name__ == "__main__":
    run_command(main)
