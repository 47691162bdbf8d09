"""Locks that keep two processes from writing the same files, and the record of which process holds a lock."""

import errno
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from core.runtime.artifacts import read_json, write_json
from core.runtime.errors import UserError

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0  # between two tries of a process that waits for a lock
# What some network file systems answer if they offer no locks.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def hold_lock(guarded: Path, *, advice: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder during the block, so that no other command writes it.

    The operating system drops the lock of a process that ends in any way, so a dead process blocks nobody. A record
    beside the lock names the holder. If the holder died, its record is still there, and the log says from which process
    the lock was taken over.

    Args:
        guarded: The file or folder, which need not exist. The lock lies beside it.
        advice: What to do if another process holds the lock or the lock cannot be made, as the second sentence of
            errors.
        wait: Wait until the other process has ended, instead of refusing.

    Raises:
        UserError: Another process holds the lock and `wait` is false, or the folder of the lock is not writable.
    """
    lock_file, record = (guarded.with_name(f".{guarded.name}.{suffix}") for suffix in ("lock", "holder.json"))
    lock = FileLock(lock_file)
    new_folders = [folder for folder in guarded.parents if not folder.exists()]
    try:
        guarded.parent.mkdir(parents=True, exist_ok=True)
        acquire(lock, guarded, record, advice=advice, wait=wait)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise UserError(f"cannot write {guarded} ({error.strerror or error}). {advice}") from error
        log.warning("%s cannot be locked (%s). Run only one command at a time that writes it", guarded, error.strerror)
        yield
        return
    try:
        if record.is_file():
            died = name_holder(record)
            log.warning("Took over the lock of %s from %s, which ended without releasing it", guarded, died)
        write_json(record, describe_this_process())
        yield
    finally:
        record.unlink(missing_ok=True)
        # A process that opened this file before, and locks it after, notices that it was deleted and opens a new one.
        lock_file.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # A folder that now holds files stays.
            for folder in new_folders:
                folder.rmdir()


def acquire(lock: FileLock, guarded: Path, record: Path, *, advice: str, wait: bool) -> None:
    """Acquire a lock; `hold_lock` explains the arguments and errors."""
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise UserError(f"{guarded} is in use by {name_holder(record)}. {advice}") from error
        log.info("Waiting for %s, which writes %s", name_holder(record), guarded)
        lock.acquire(timeout=-1, poll_interval=POLL_SECONDS)


def describe_this_process() -> dict[str, Any]:
    """Return the process, host, start of holding and command of this process, as values that fit into JSON."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def name_holder(record: Path) -> str:
    """Return the process that a record names in words, such as "process 17 on node3 (since …, train_p_diff.py seed=1)".

    The holder writes its record just after it got the lock, so the record may be missing for a moment.
    """
    try:
        holder = read_json(record)
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']}, {holder['command']})"
    except (UserError, KeyError, TypeError):
        return "another process"
