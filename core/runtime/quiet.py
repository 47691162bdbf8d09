"""Remarks of Lightning that no command should show."""

import logging
import warnings

# Said by Lightning at every fit, of itself or about choices made here on purpose: data in memory needs no workers, a
# network whose statistics are frozen is fitted in eval mode, and collecting has nothing to validate.
REMARKS = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*is smaller than the logging interval.*",
    ".*ended before the epoch ended.*",
    ".*in eval mode at the start of training.*",
    ".*defined a `validation_step` but have no `val_dataloader`.*",
    ".*LeafSpec.*is deprecated.*",
)


def quiet_lightning() -> None:
    """Silence `REMARKS` and what Lightning says of the machine, in this process.

    Every command does so before it starts, and every fit in each process that it starts.
    """
    for message in REMARKS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
