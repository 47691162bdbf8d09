"""The part that runs the tests in tests/gpu in a process of pytest."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import torch

from scripts.gpu_check.findings import Findings
from scripts.gpu_check.packages import ROOT


def run(findings: Findings, device: torch.device, rehearse: bool) -> None:
    """Run the tests; add a row per file, and a failure per failed test."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "tests.xml"
        environment = {**os.environ, "P_DIFF_REHEARSE": "1"} if rehearse else os.environ
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={record}"]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        cases = [*ElementTree.parse(record).iter("testcase")] if record.is_file() else []
    findings.add_table("tests", count_outcomes(cases))
    broken = [case for case in cases if read_outcome(case) == "failed"]
    for case in broken:
        findings.add_failure(f"{case.get('classname')}::{case.get('name')}", read_message(case))
    if status != 0 and not broken:
        findings.add_failure("pytest", f"ended with status {status}")


def read_outcome(case: ElementTree.Element) -> str:
    """Return "passed", "failed" or "skipped" for one test."""
    tags = {child.tag for child in case}
    return "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"


def read_message(case: ElementTree.Element) -> str:
    """Return the message of a failed test, or an empty text."""
    return next((child.get("message", "") for child in case if child.tag in ("failure", "error")), "")


def count_outcomes(cases: list[ElementTree.Element]) -> list[dict[str, Any]]:
    """Return one row per file with its counts of outcomes and its seconds."""
    rows: dict[str, dict[str, Any]] = {}
    for case in cases:
        name = (case.get("classname") or "").rpartition(".")[2]
        row = rows.setdefault(name, {"file": name, "passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
        row[read_outcome(case)] += 1
        row["seconds"] += float(case.get("time", 0))
    return list(rows.values())
