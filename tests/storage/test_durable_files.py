"""Locks, folders and writes: the operations on which the local store and the local journal stand."""

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casbank.errors import ErrorKind, InvalidInputError
from casbank.limits import MIB
from casbank.storage.files import FileLock, fdatasync, fsync_folder, make_folder, translate, write_parts
from casbank.testing.faults import Fault, failing

# Runs a Python program: see conftest.py.
Start = Callable[..., Any]

HOLD = """
import sys
from pathlib import Path
from casbank.storage.files import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.acquire(exclusive=sys.argv[2] == "exclusive", blocking=False), flush=True)
sys.stdin.read()
"""
FORK = """
import os, sys
from pathlib import Path
from casbank.errors import InvalidInputError
from casbank.storage.files import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire(exclusive=True, blocking=True)
if not os.fork():
    try:
        lock.acquire(exclusive=True, blocking=False)
    except InvalidInputError as error:
        print(error.kind, flush=True)
    lock.release()
    lock.close()
    os._exit(0)
os.wait()
print(FileLock(Path(sys.argv[1])).acquire(exclusive=True, blocking=False), flush=True)
"""


# --- locks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "granted"),
    [
        ("exclusive", "exclusive", False),
        ("exclusive", "shared", False),
        ("shared", "exclusive", False),
        ("shared", "shared", True),
    ],
)
def test_locks_exclude_other_processes(tmp_path: Path, start: Start, theirs: str, ours: str, granted: bool) -> None:
    """Two processes hold a lock together only if both share it."""
    path = tmp_path / "lock"
    assert start(HOLD, path, theirs).stdout.readline() == "True\n"
    lock = FileLock(path)
    assert lock.acquire(exclusive=ours == "exclusive", blocking=False) is granted
    lock.close()


def test_a_lock_dies_with_its_holder(tmp_path: Path, start: Start) -> None:
    """Who waits for a lock gets it when its holder is killed."""
    path = tmp_path / "lock"
    holder = start(HOLD, path, "exclusive")
    assert holder.stdout.readline() == "True\n"
    lock = FileLock(path)
    assert not lock.acquire(exclusive=True, blocking=False)
    threading.Timer(0.05, holder.kill).start()
    assert lock.acquire(exclusive=True, blocking=True)
    lock.close()


def test_a_lock_is_not_lost_when_another_descriptor_closes(tmp_path: Path, start: Start) -> None:
    """Opening and closing the locked file elsewhere in the process leaves the lock as it is."""
    path = tmp_path / "lock"
    lock = FileLock(path)
    assert lock.acquire(exclusive=True, blocking=False)
    path.read_bytes()
    FileLock(path).close()
    assert start(HOLD, path, "exclusive").stdout.readline() == "False\n"
    lock.close()


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    """Each FileLock is a holder of its own, and release lets the next one in."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire(exclusive=True, blocking=False)
    assert not second.acquire(exclusive=True, blocking=False)
    first.release()
    assert second.acquire(exclusive=True, blocking=False)
    first.close()
    second.close()


def test_a_forked_child_neither_takes_nor_gives_its_parents_lock(tmp_path: Path, start: Start) -> None:
    """A child is refused the lock, and whatever it does with it the parent holds it still."""
    assert start(FORK, tmp_path / "lock").communicate()[0] == "forked\nFalse\n"


def test_a_closed_lock_is_refused(tmp_path: Path) -> None:
    """After close() there is nothing to acquire, and nothing to release or close."""
    lock = FileLock(tmp_path / "lock")
    lock.close()
    lock.release()
    lock.close()
    with pytest.raises(InvalidInputError) as refused:
        lock.acquire(exclusive=True, blocking=False)
    assert refused.value.kind is ErrorKind.CLOSED


def test_a_lock_whose_close_fails_is_closed(tmp_path: Path) -> None:
    """A close that fails is no error, gives the lock back, and nobody goes on by the descriptor's number."""
    lock = FileLock(tmp_path / "lock")
    lock.acquire(exclusive=True, blocking=False)
    with failing(tmp_path, 1, Fault.EIO) as failure:
        lock.close()
    assert failure.failed == "close lock"
    with pytest.raises(InvalidInputError) as error:
        lock.acquire(exclusive=True, blocking=False)
    assert error.value.kind is ErrorKind.CLOSED
    rival = FileLock(tmp_path / "lock")
    assert rival.acquire(exclusive=True, blocking=False)
    rival.close()


# --- writes and folders ---------------------------------------------------------------------------------------------


def test_interrupted_writes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Every byte arrives once and in its place when signals cut the writes short."""
    content = os.urandom(4 * MIB)
    parts = [content[start : start + 1000] for start in range(0, len(content), 1000)]
    reading, writing = os.pipe()
    received: list[bytes] = []

    def drain() -> None:
        # Slowly, so that the writer blocks in the middle of a part, where the signal finds it.
        while piece := os.read(reading, 30_001):
            received.append(piece)

    reader = threading.Thread(target=drain)
    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        reader.start()
        write_parts(writing, parts)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        os.close(writing)
        reader.join()
        os.close(reading)
    assert b"".join(received) == content


def test_folders_are_made_with_their_parents_and_again(tmp_path: Path) -> None:
    """make_folder makes what is missing, and does not mind what is there."""
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_folder_whose_close_fails_is_synced(tmp_path: Path) -> None:
    """Behind a sync that succeeded a close that fails is no error; a sync that fails is one."""
    with failing(tmp_path, 3, Fault.EIO) as failure:
        fsync_folder(tmp_path)
    assert failure.failed == "close ."
    with failing(tmp_path, 2, Fault.EIO) as failure, pytest.raises(OSError, match="Input/output error"):
        fsync_folder(tmp_path)
    assert failure.failed == "fsync ."


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """make_folder does not take a file for a folder."""
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def test_fdatasync_tells_of_what_cannot_be_synced() -> None:
    """An error of the operating system is not swallowed."""
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="Invalid argument"):
        fdatasync(writing)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, ErrorKind.DISK_FULL),
        (errno.EDQUOT, ErrorKind.DISK_FULL),
        (errno.EIO, ErrorKind.GENERAL),
    ],
)
def test_translated_errors_keep_their_cause(number: int, kind: ErrorKind) -> None:
    """A translated error tells want of space from other failures, and keeps errno, reason and context."""
    error = translate(OSError(number, os.strerror(number)), "cannot write", path="/x")
    assert (error.kind, error.errno, error.context) == (kind, number, {"path": "/x"})
    assert os.strerror(number) in str(error)
