"""Whether an index on disk can be believed, and by whom it is open (format, section 10).

Index commits are not synced, since the journal carries durability. So the pages survive a process, but not a power cut
or a disk that was taken away. Rule 1: an index is believed if the boot and the mount are those in which it was written,
or if it was synced after the last write to it. Rule 2: the marker says "dirty", durably, before the first write; only
the last process that has the index open may say "clean" again. Rule 3: who has an index open holds its lock shared.
"""

import json
import os
from pathlib import Path

from casbank.storage.files import FileLock, fdatasync, fsync_folder
from casbank.storage.mount import boot_id, mount_of

_MARKER = "marker"
_LOCK = "users"


class Marker:
    """The marker file of one index folder, and this process's share in its lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _MARKER
        self._lock = FileLock(folder / _LOCK)
        self._session = f"{boot_id()} {mount_of(folder).identity}"
        self._dirty = False

    def alone(self) -> bool:
        """Try to be the only one; if so, nobody can open the index until :meth:`share`."""
        return self._lock.acquire(exclusive=True, blocking=False)

    def share(self) -> None:
        """Become one of several; waits while somebody is :meth:`alone`."""
        self._lock.acquire(exclusive=False, blocking=True)

    def survived(self) -> bool:
        """Whether what is in the folder can be what was written last."""
        state = self._read()
        return bool(state) and (state.get("clean") is True or state.get("session") == self._session)

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
        self._lock.close()

    def _read(self) -> dict[str, object]:
        try:
            state = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write(self, *, clean: bool) -> None:
        # In place and within one sector: a torn write is no JSON, and that counts as "not survived".
        text = json.dumps({"session": self._session, "clean": clean}).encode().ljust(256)
        is_new = not self._path.exists()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(descriptor, text, 0)
            fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            fsync_folder(self._path.parent)
