"""Locks: a second process is refused or waits, and the lock of a dead process is taken over."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.runtime.artifacts import write_json
from core.runtime.errors import UserError
from core.runtime.file_lock import describe_this_process, hold_lock, name_holder
from core.runtime.run_directory import RunDirectory

FORK = multiprocessing.get_context("fork")  # a new interpreter would import torch for seconds


def hold(guarded: Path, holds, seconds: float) -> None:
    with hold_lock(guarded, advice=""):
        holds.set()
        time.sleep(seconds)


@contextmanager
def other_process(guarded: Path, seconds: float = 60) -> Iterator[multiprocessing.Process]:
    """Start a process that holds the lock of a file, and yield when it does."""
    holds = FORK.Event()
    process = FORK.Process(target=hold, args=(guarded, holds, seconds))
    process.start()
    try:
        assert holds.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def test_a_second_process_is_refused_with_the_first_ones_number_and_host(tmp_path):
    with (
        other_process(tmp_path / "run") as process,
        pytest.raises(UserError, match=rf"run is in use by process {process.pid} on {os.uname().nodename} .* Wait$"),
        hold_lock(tmp_path / "run", advice="Wait"),
    ):
        pytest.fail("two processes held one lock")


def test_a_waiting_process_gets_the_lock_when_the_first_one_ends_and_the_log_says_for_whom_it_waits(tmp_path, caplog):
    caplog.set_level("INFO")
    with other_process(tmp_path / "run", 0.5) as process, hold_lock(tmp_path / "run", advice="", wait=True):
        assert f"Waiting for process {process.pid} on" in caplog.text and "Took over" not in caplog.text


def test_the_lock_of_a_killed_process_is_taken_over_and_the_log_says_so(tmp_path, caplog):
    with other_process(tmp_path / "run") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert (tmp_path / ".run.holder.json").is_file()
        with hold_lock(tmp_path / "run", advice=""):
            assert f"Took over the lock of {tmp_path / 'run'} from process {process.pid} on" in caplog.text
            assert f"process {os.getpid()} on" in name_holder(tmp_path / ".run.holder.json")


def test_a_released_lock_leaves_no_file_and_can_be_taken_again_without_a_remark(tmp_path, caplog):
    for _ in range(2):
        with hold_lock(tmp_path / "new/run", advice=""):
            assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [".run.holder.json", ".run.lock"]
        assert not (tmp_path / "new").exists()
    assert not caplog.records


def test_a_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_lock(tmp_path / "run", advice=""):
        raise ZeroDivisionError
    with hold_lock(tmp_path / "run", advice=""):
        pass


def test_a_folder_that_cannot_be_made_is_named_with_what_to_set(tmp_path):
    (tmp_path / "regular").write_text("in the way")
    refused = pytest.raises(UserError, match=r"cannot write .*regular/run .* Set x$")
    with refused, hold_lock(tmp_path / "regular/run", advice="Set x"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 3}'])
def test_a_damaged_record_is_another_process(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    assert name_holder(tmp_path / "record.json") == "another process"
    write_json(tmp_path / "record.json", describe_this_process())
    assert name_holder(tmp_path / "record.json").startswith(f"process {os.getpid()} on ")


def test_a_run_is_locked_unless_no_run_can_begin_in_its_folder(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.hold("test"):
        assert not list(tmp_path.iterdir())
    with run.hold("train"):
        assert (tmp_path / ".run.lock").is_file()
        with (
            pytest.raises(UserError, match=r"in use by process .* set output_dir=FOLDER"),
            RunDirectory(tmp_path / "run").hold("train"),
        ):
            pass
