"""Signals that ask a command to end. It ends at once, or in a training after it has saved the current step."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)
# Ctrl-C, the signal of `kill` and of schedulers, and the one that SLURM sends before the time limit of a job
# (srun with --signal=USR1@60).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(SystemExit):
    """The end of a command that a signal asked for; the exit status is 128 + the number of the signal."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name


class _Request:
    """The signal that a block of `defer_signals` has received and not yet obeyed."""

    def __init__(self) -> None:
        self.number: int | None = None


_deferred: list[_Request] = []  # the requests of the blocks of `defer_signals` that run, the innermost last


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Raise `Interrupted` in the block when one of `SIGNALS` arrives.

    A signal that this process was started to ignore stays ignored, as Ctrl-C does in the background of a shell. Only
    the main thread receives signals, so the block of another thread is unchanged.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process that reads images ends when its parent does
            return
        if _deferred and _deferred[-1].number is None:
            _deferred[-1].number = number
            log.info("Received %s. Ending after the current step", signal.Signals(number).name)
            return
        raise Interrupted(number)

    replaced = {number: signal.getsignal(number) for number in SIGNALS}
    replaced = {number: handler for number, handler in replaced.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in replaced:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Let the block end itself at a signal; `get_deferred_signal` tells it, and a second signal ends it at once.

    Raises:
        Interrupted: The block has ended by itself after a signal.
    """
    request = _Request()
    _deferred.append(request)
    try:
        yield
    finally:
        _deferred.remove(request)
    if request.number is not None:
        raise Interrupted(request.number)


def get_deferred_signal() -> int | None:
    """Return the number of the signal that asks the current block of `defer_signals` to end; None if there is none."""
    return _deferred[-1].number if _deferred else None
