"""Whether an index on disk can be believed, and by whom it is open (format, section 12).

Index commits are not synced, since the journal carries durability. So the pages survive a process, but not a power cut
or a disk that was taken away. Rule 1: an index is believed if the boot and the mount are those in which it was written,
or if it was synced after the last write to it. Rule 2: the marker says "dirty", durably, before the first write; only
the last process that has the index open may say "clean" again. Rule 3: who has an index open holds its lock shared.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from casbank.storage.files import FileLock, close_file, fdatasync, fsync_folder
from casbank.storage.mount import UNKNOWN, boot_id, mount_of

# Raised when rows change: an index of another release is made anew.
_SCHEMA = 2
_MARKER = "marker"
_MARKER_BYTES = 256
_LOCK = "users"


class Marker:
    """The marker file of one index folder, and this process's share in its lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._session = f"{boot_id()} {mount_of(folder).identity}"
        self._lock = FileLock(folder / _LOCK)
        # Held open: another process may put another index in this one's place, and its marker is not ours to write.
        self._descriptor = os.open(folder / _MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._dirty = False

    def is_in_place(self) -> bool:
        """Whether the folder is still the one that was locked: a rebuild puts another in its place."""
        try:
            return os.path.samestat((self._folder / _MARKER).stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def alone(self) -> bool:
        """Try to be the only one; if so, nobody can open the index until :meth:`share`."""
        return self._lock.acquire(exclusive=True, blocking=False)

    def share(self) -> None:
        """Become one of several; waits while somebody is :meth:`alone`."""
        self._lock.acquire(exclusive=False, blocking=True)

    def survived(self) -> bool:
        """Whether what is in the folder can be what was written last."""
        state = self._read()
        if state.get("schema") != _SCHEMA:
            return False
        if state.get("clean") is True:
            return True
        # Where nobody can tell one boot from the next, nothing that was not synced is believed.
        return state.get("session") == self._session and UNKNOWN not in self._session

    def clean(self) -> bool:
        """Whether the index was closed in order."""
        return self._read().get("clean") is True

    def make_dirty(self) -> None:
        """To be called before each write; costs a sync the first time."""
        if not self._dirty:
            self._write(clean=False)
            self._dirty = True

    def make_clean(self) -> None:
        """The index was just synced, and this process is alone."""
        self._write(clean=True)
        self._dirty = False

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            close_file(descriptor)
        # Not left to the close: a forked child has the lock's file open too, and would keep others out.
        self._lock.release()
        self._lock.close()

    def _read(self) -> dict[str, object]:
        try:
            state = json.loads(os.pread(self._descriptor, _MARKER_BYTES, 0))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write(self, *, clean: bool) -> None:
        # In place and within one sector: a torn write is no JSON, and that counts as "not survived".
        text = json.dumps({"schema": _SCHEMA, "session": self._session, "clean": clean}).encode().ljust(_MARKER_BYTES)
        is_new = os.fstat(self._descriptor).st_size == 0
        os.pwrite(self._descriptor, text, 0)
        fdatasync(self._descriptor)
        if is_new:
            # A folder that is gone is believed by nobody.
            with suppress(FileNotFoundError):
                fsync_folder(self._folder)
