"""A trial of optimizers and learning-rate schedules on one number, so that wrong settings are found before training."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from core.runtime.errors import UserError

MOST_STEPS = 1000  # A schedule that works for so many steps is taken to work for more.


def try_optimizer(
    name: str, make_optimizer: Callable[..., Any], make_scheduler: Callable[..., Any] | None = None, num_steps: int = 1
) -> None:
    """Make some steps of an optimizer and of its schedule.

    Args:
        name: The setting that names the optimizer; the schedule is the setting `scheduler` beside it.
        make_optimizer: Builds the optimizer from parameters.
        make_scheduler: Builds the schedule from the optimizer; None for a constant rate.
        num_steps: The number of steps of the schedule.

    Raises:
        UserError: The class of one of them does not exist or refuses its settings, a step fails, or a learning rate is
            not a number of at least 0.
    """
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    used = name
    try:
        optimizer = make_optimizer([parameter])
        optimizer.step(lambda: torch.zeros(()))
        if make_scheduler is None:
            return
        used = f"{name.rpartition('.')[0]}.scheduler"
        scheduler = make_scheduler(optimizer)
        for step in range(min(num_steps, MOST_STEPS)):
            optimizer.step(lambda: torch.zeros(()))
            scheduler.step()
            rate = float(optimizer.param_groups[0]["lr"])
            if not (math.isfinite(rate) and rate >= 0):
                raise ValueError(f"the learning rate is {rate} after {step + 1} steps")
    except Exception as error:  # a class of the user may raise any kind of error
        cause = error.__cause__ or error
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        raise UserError(f"{used} cannot be used ({reason}). Correct the settings of {used}") from error
