"""The few file operations on which durability rests; the local store and the local journal share them.

Rule 1: a file is durable after ``fsync_file``; its name only after ``fsync_folder`` of the folder that holds it.
Rule 2: a failed fsync is never tried again on that file. The kernel has marked the pages clean, so a second one says
yes to data that never arrived: the file is abandoned.
Rule 3: everything here but ``close_file`` and ``translate`` raises OSError as the system gave it. The caller, who knows
what the file was for, says so: ``raise translate(error, "cannot store the pack", path=path) from error``.
"""

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from casbank.errors import ErrorKind, InvalidInputError, StoreError
from casbank.model import Buffer

# What one writev takes, on Linux and macOS alike.
IOV_PARTS_MAX = 1024

# struct flock: type, whence, start, length, pid. A length of 0 is the whole file; the pid must be 0 for an OFD lock.
_FLOCK = struct.Struct("hhqqi0q")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOCK_IS_TAKEN = frozenset({errno.EAGAIN, errno.EACCES})


def fsync_file(descriptor: int) -> None:
    """Bring a file's content and metadata to stable storage."""
    if sys.platform == "darwin":
        # fsync(2) stops at the drive's cache there.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def fdatasync(descriptor: int) -> None:
    """Bring a file's content and length to stable storage; times may be lost."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def fsync_folder(path: Path) -> None:
    """Bring the names in a folder to stable storage: what was created, linked or removed in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync_file(descriptor)
    finally:
        close_file(descriptor)


def close_file(descriptor: int) -> None:
    """Close a descriptor. A close that fails is no error here.

    It loses nothing: what must last was synced before, and the sync would have failed; all else may be lost. And the
    descriptor is gone: who kept its number, to try again, might close a file that somebody else has just opened.
    """
    with suppress(OSError):
        os.close(descriptor)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Create a folder of this mode, and the parents it lacks, durably; one that is there is made durable.

    Raises FileExistsError if something else has that name.
    """
    try:
        path.mkdir(mode)
    except FileNotFoundError:
        make_folder(path.parent)
        path.mkdir(mode, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise
    # Also when it was there: its maker may have died, or not have come so far. One level is enough, because nobody
    # creates a folder before its parent is durable.
    fsync_folder(path.parent)


def write_parts(descriptor: int, parts: Sequence[Buffer]) -> None:
    """Write all parts, one behind the other, at the descriptor's position."""
    views = (memoryview(part).cast("B") for part in parts if len(part))
    while batch := list(islice(views, IOV_PARTS_MAX)):
        while batch:
            batch = _behind(batch, os.writev(descriptor, batch))


def _behind(views: list[memoryview], written: int) -> list[memoryview]:
    """What is left of the views after so many bytes: writev may stop anywhere, on a full disk or past 2 GiB."""
    for number, view in enumerate(views):
        if written < view.nbytes:
            return [view[written:], *views[number + 1 :]]
        written -= view.nbytes
    return []


def lock_descriptor(descriptor: int, *, exclusive: bool, blocking: bool) -> bool:
    """Lock the whole file for this open file description; False if another one is in the way.

    The lock belongs to the description: it ends when the last descriptor of that (dup and fork share it) is closed,
    and other descriptors of the same file neither hold nor lose it. An exclusive lock needs a writable descriptor.
    """
    try:
        if sys.platform == "linux":
            kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
            command = fcntl.F_OFD_SETLKW if blocking else fcntl.F_OFD_SETLK
            fcntl.fcntl(descriptor, command, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
        else:
            # Not lockf: POSIX locks vanish when any descriptor of the file is closed.
            operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            fcntl.flock(descriptor, operation if blocking else operation | fcntl.LOCK_NB)
    except OSError as error:
        if not blocking and error.errno in _LOCK_IS_TAKEN:
            return False
        raise
    return True


def _unlock_descriptor(descriptor: int) -> None:
    if sys.platform == "linux":
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileLock:
    """An advisory lock between processes, on a file that is created if need be and never removed.

    It dies with its process. It excludes processes (and other FileLocks), NOT the threads that share this instance:
    to those it looks as if each of them had it. Combine it with a mutex, taken first and released last.
    A forked child shares the lock: there ``release`` and ``close`` leave the parent's hold alone, and ``acquire``
    raises InvalidInputError (kind FORKED). Until such a child exits, execs or closes, the lock outlives its parent.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._owner_pid = os.getpid()

    def acquire(self, exclusive: bool, blocking: bool) -> bool:
        """Take the lock, or change between shared and exclusive; False if others are in the way and it may not wait.

        Raises InvalidInputError after ``close`` (kind CLOSED) and in a forked child (kind FORKED).
        """
        if self._descriptor < 0:
            raise InvalidInputError("the lock is closed", kind=ErrorKind.CLOSED)
        if self._owner_pid != os.getpid():
            raise InvalidInputError("a forked process cannot use its parent's lock", kind=ErrorKind.FORKED)
        return lock_descriptor(self._descriptor, exclusive=exclusive, blocking=blocking)

    def release(self) -> None:
        """Give the lock back; harmless without one."""
        if self._descriptor >= 0 and self._owner_pid == os.getpid():
            _unlock_descriptor(self._descriptor)

    def close(self) -> None:
        """Give the lock back and close its file. Idempotent."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            close_file(descriptor)


def translate(error: OSError, message: str, **context: object) -> StoreError:
    """The StoreError that tells a user of ``error``: kind DISK_FULL for ENOSPC and EDQUOT; its errno is kept."""
    kind = ErrorKind.GENERAL
    reason = error.strerror or str(error)
    if error.errno in _NO_SPACE:
        kind = ErrorKind.DISK_FULL
        reason += "; nothing was lost: free some space or raise the quota, then try again"
    translated = StoreError(f"{message}: {reason}", kind=kind, **context)
    translated.errno = error.errno
    return translated
