"""The part that runs the quickstart: both commands on digits with the default settings, in an empty folder."""

import tempfile
from pathlib import Path

import torch

from scripts.gpu_check.commands import TINY, report_run, run_both
from scripts.gpu_check.findings import Findings


def run(findings: Findings, device: torch.device, rehearse: bool) -> None:
    """Run both commands and add their tables."""
    with tempfile.TemporaryDirectory() as folder:
        report_run(findings, *run_both(Path(folder), [*TINY, "task.model.name=test_resnet"] if rehearse else []))
