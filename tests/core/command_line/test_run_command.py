"""Errors of commands without Hydra; test_entry_point.py tests the entry points."""

import errno
import os

import pytest
from torch.utils.data import DataLoader, Dataset

from core.command_line.run_command import exit_on_mistake, run_command
from core.runtime.errors import UserError


class Refusing(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise UserError("image 3.jpg cannot be read; remove it")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mistake_is_one_sentence_also_from_a_process_that_loads_images(num_workers):
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: len(list(DataLoader(Refusing(), num_workers=num_workers))))
    assert stop.value.code == "error: image 3.jpg cannot be read; remove it"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_also_if_a_library_writes(number):
    with pytest.raises(SystemExit) as stop, exit_on_mistake():
        raise OSError(number, os.strerror(number), "events.tfevents")
    assert stop.value.code.startswith("error: there is no room on the disk") and "\n" not in stop.value.code
    with pytest.raises(PermissionError), exit_on_mistake():
        raise OSError(errno.EACCES, "denied")


class FitStopped(SystemExit):
    """The exit into which Lightning turns Ctrl-C inside a fit."""


def interrupted():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise FitStopped(1)  # noqa: B904, because Lightning also omits the cause


def test_ctrl_c_inside_a_fit_ends_in_status_130():
    with pytest.raises(SystemExit) as stop:
        run_command(interrupted)
    assert stop.value.code == 130


@pytest.mark.parametrize("also, expected", [((), ZeroDivisionError), ((ZeroDivisionError,), SystemExit)])
def test_errors_of_libraries_are_mistakes_only_where_a_command_line_says_so(also, expected):
    with pytest.raises(expected), exit_on_mistake(*also):
        raise ZeroDivisionError("by the user")


def test_what_ctrl_c_makes_a_library_fail_with_is_ctrl_c(capsys):
    def interrupted():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("Please call `iter(combined_loader)` first.")  # Lightning raises this  # noqa: B904

    with pytest.raises(SystemExit) as stop:
        run_command(interrupted)
    assert stop.value.code == 130 and "Traceback" not in capsys.readouterr().err
