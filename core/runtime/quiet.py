"""Lightning messages that no command should show."""

import logging
import warnings

# Lightning shows these warnings at every fit, but each is about a deliberate choice or about Lightning itself. For
# example, data in memory needs no workers, frozen layers are fitted in eval mode, and collecting validates nothing.
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
    """Silence the warnings in `REMARKS` and Lightning's log lines about the machine, in this process.

    Every command calls this at its start, and every fit calls it in each process of trainer=ddp.
    """
    for message in REMARKS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
