"""Commands silence warnings of Lightning; imports do not."""

import logging
import subprocess
import sys
import warnings

import pytest

from core.runtime.provenance import ROOT
from core.runtime.quiet import REMARKS, quiet_lightning

LOGGERS = ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda")
WARNINGS = (
    "The 'train_dataloader' does not have many workers which may be a bottleneck.",
    "Checkpoint directory /tmp exists and is not empty.",
    "The number of training batches (3) is smaller than the logging interval Trainer(log_every_n_steps=50).",
)


@pytest.mark.parametrize("text", WARNINGS)
def test_a_remark_is_silenced_and_other_warnings_are_not(text):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        quiet_lightning()
        warnings.warn(text, stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["something else"]
    assert all(logging.getLogger(name).level == logging.WARNING for name in LOGGERS)


def test_importing_the_trainer_changes_neither_warnings_nor_loggers():
    """Check only our patterns, because other libraries also filter warnings when they are imported."""
    code = (
        "import logging, warnings; import core.runtime.trainer; from core.runtime.quiet import REMARKS\n"
        "patterns = {pattern.pattern for _, pattern, *_ in warnings.filters if hasattr(pattern, 'pattern')}\n"
        "assert not patterns & set(REMARKS), patterns\n"
        f"assert all(logging.getLogger(name).level == logging.NOTSET for name in {LOGGERS!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert REMARKS
