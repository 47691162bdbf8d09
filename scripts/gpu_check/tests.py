"""The tests in tests/gpu, in a process of pytest."""

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
    """Run them and add a row for each file, and a failure for each test that did not pass."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "tests.xml"
        environment = {**os.environ, "P_DIFF_REHEARSE": "1"} if rehearse else os.environ
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={record}"]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        cases = [*ElementTree.parse(record).iter("testcase")] if record.is_file() else []
    findings.table("tests", rows_of(cases))
    broken = [case for case in cases if outcome_of(case) == "failed"]
    for case in broken:
        findings.fail(f"{case.get('classname')}::{case.get('name')}", message_of(case))
    if status != 0 and not broken:
        findings.fail("pytest", f"it ended with status {status}")


def outcome_of(case: ElementTree.Element) -> str:
    """Return "passed", "failed" or "skipped"."""
    tags = {child.tag for child in case}
    return "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"


def message_of(case: ElementTree.Element) -> str:
    """Return the first line of why a test failed."""
    return next((child.get("message", "") for child in case if child.tag in ("failure", "error")), "")


def rows_of(cases: list[ElementTree.Element]) -> list[dict[str, Any]]:
    """Count outcomes and seconds for each file."""
    rows: dict[str, dict[str, Any]] = {}
    for case in cases:
        name = (case.get("classname") or "").rpartition(".")[2]
        row = rows.setdefault(name, {"file": name, "passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
        row[outcome_of(case)] += 1
        row["seconds"] += float(case.get("time", 0))
    return list(rows.values())
