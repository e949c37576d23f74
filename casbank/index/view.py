"""The index's LMDB environment: opened once a process, believed only if it can have survived, growing by itself.

Rule 1: commits are not synced; ``marker.py`` says what may be believed after a crash.
Rule 2: a view that cannot be believed is removed, never mended: it is rebuilt from the store.
Rule 3: LMDB may change its map's size, and may be closed, only while this process has no transaction open; the gate
sees to that.
"""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb

from casbank import limits
from casbank.errors import CasbankError, CorruptionError, ErrorKind, InvalidInputError, StoreError
from casbank.index import probe
from casbank.index.marker import Marker
from casbank.index.transaction import DUPLICATE_TABLES, TABLES, Edit, Snapshot
from casbank.storage.files import make_folder, translate
from casbank.storage.mount import refuse_network_file_system

_PROBE_SECONDS_MAX = 60
_DATA = "data.mdb"
_LOCK_TABLE = "lock.mdb"
# A cache line each, and the table's head.
_LOCK_TABLE_BYTES = 64 * (limits.INDEX_READERS_MAX + 4)


# The data files that are open here, by device and inode, with the process that opened each.
_opened: dict[tuple[int, int], tuple[int, lmdb.Environment]] = {}


def _leave_to_parent() -> None:
    """In a forked child: an environment that the parent opened is never to be finalised here, not even at exit.

    LMDB would give up the places in the table of readers that its spare transactions hold, and the parent goes on
    using those.
    """
    for _, environment in _opened.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(environment))


os.register_at_fork(after_in_child=_leave_to_parent)


class InheritedIndexError(Exception):
    """The parent process had this index open when it forked, so this process can neither use nor open it.

    LMDB's locks and readers are those of the process that opened it; to close what was inherited would give up the
    parent's. So it is left as it is. Never leaves the library.
    """


class View:
    """One index folder, open. Use :meth:`read` and :meth:`update` from any thread."""

    def __init__(self, folder: Path, map_bytes: int = limits.INDEX_MAP_BYTES_DEFAULT) -> None:
        """Open the index in ``folder``, which is made if need be; remove what cannot be believed first.

        Raises StoreError if the folder is on a network file system or cannot be written, InheritedIndexError.
        """
        self.folder = folder
        self._gate = _Gate()
        self._closed = False
        try:
            make_folder(folder)
            refuse_network_file_system(folder)
            while not self._open(map_bytes):
                # A rebuild has put another index in this one's place meanwhile.
                make_folder(folder)
        except OSError as error:
            raise _translated(error, folder) from error
        except lmdb.Error as error:
            raise StoreError(f"cannot open the index: {error}", path=folder) from error

    def _open(self, map_bytes: int) -> bool:
        """Open what is in the folder; False if it is not in its place any more."""
        self._marker = Marker(self.folder)
        with ExitStack() as undo:
            undo.callback(self._marker.close)
            self._admit()
            _refuse_inherited(self.folder)
            self._environment = _open_environment(self.folder, map_bytes)
            undo.callback(self._environment.close)
            self._databases = {
                name: self._environment.open_db(name.encode(), dupsort=name in DUPLICATE_TABLES) for name in TABLES
            }
            if self._marker.is_in_place():
                undo.pop_all()
                self._file = _file_of(self.folder)
                _opened[self._file] = os.getpid(), self._environment
                return True
        return False

    def _admit(self) -> None:
        # If nobody else has it open, then what is here was left by processes that are gone.
        if self._marker.alone() and not self._credible() and self._marker.is_in_place():
            _wipe(self.folder)
        self._marker.share()

    def _credible(self) -> bool:
        if not self._marker.survived():
            return False
        return _is_complete(self.folder) if self._marker.clean() else _is_sound(self.folder)

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """A snapshot of the newest committed tables. Keep it short, and never open one within another.

        Raises InvalidInputError (kind CLOSED) if this view was closed.
        """
        while True:
            with self._gate.shared():
                self._check_open()
                try:
                    with _own_errors(self.folder):
                        transaction = self._environment.begin()
                except lmdb.MapResizedError:
                    transaction = None
                if transaction is not None:
                    with _own_errors(self.folder), transaction:
                        yield Snapshot(transaction, self._databases)
                    return
            self._resize(0)

    def update(self, change: Callable[[Edit], None]) -> None:
        """Run ``change`` in a writing transaction; again, from the start, if the map had to grow for it."""
        with _own_errors(self.folder):
            self._marker.make_dirty()
        while True:
            try:
                with self._gate.shared(), _own_errors(self.folder):
                    self._check_open()
                    with self._environment.begin(write=True) as transaction:
                        change(Edit(transaction, self._databases))
                return
            except lmdb.MapFullError:
                self._resize(2 * self._environment.info()["map_size"])
            except lmdb.MapResizedError:
                self._resize(0)

    def _resize(self, map_bytes: int) -> None:
        """Another map size; 0 takes over what another process has set."""
        with self._gate.alone(), _own_errors(self.folder):
            self._check_open()
            self._environment.set_mapsize(map_bytes)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInputError("the index is closed", kind=ErrorKind.CLOSED)

    def used_bytes(self) -> int:
        """Bytes of the file that hold pages, used ones or such as can be used again."""
        return (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]

    def clear_stale_readers(self) -> None:
        """Give up the reader slots of processes that died: they would keep pages from being used again."""
        self._environment.reader_check()

    def close(self) -> None:
        """Close; sync first if no other process has it open, so that it is believed after a reboot."""
        with self._gate.alone():
            if self._marker.alone() and not self._marker.clean():
                try:
                    self._environment.sync(True)
                    self._marker.make_clean()
                except (lmdb.Error, OSError):
                    # Nothing is lost: the next one to open it after a reboot rebuilds it.
                    pass
            self._end()

    def abandon(self) -> None:
        """Close a view whose folder is to be removed."""
        with self._gate.alone():
            self._end()

    def _end(self) -> None:
        self._closed = True
        _opened.pop(self._file, None)
        self._environment.close()
        self._marker.close()


def _open_environment(folder: Path, map_bytes: int) -> lmdb.Environment:
    _reserve_lock_file(folder)
    return lmdb.open(
        str(folder),
        map_size=map_bytes,
        max_dbs=len(TABLES),
        max_readers=limits.INDEX_READERS_MAX,
        # Rule 1. Without a writable map a stray pointer of the host program cannot write into it.
        sync=False,
        metasync=False,
        max_spare_txns=8,
        # Look-ups are random: reading ahead evicts what is used.
        readahead=False,
    )


def _file_of(folder: Path) -> tuple[int, int]:
    status = (folder / _DATA).stat()
    return status.st_dev, status.st_ino


def _refuse_inherited(folder: Path) -> None:
    opened = _opened.get(_file_of(folder)) if (folder / _DATA).exists() else None
    if opened is not None and opened[0] != os.getpid():
        raise InheritedIndexError


def _reserve_lock_file(folder: Path) -> None:
    """Give LMDB's table of readers its blocks: a hole in a map is a SIGBUS on a full disk."""
    descriptor = os.open(folder / _LOCK_TABLE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        allocate = getattr(os, "posix_fallocate", None)
        if allocate is not None:
            allocate(descriptor, 0, _LOCK_TABLE_BYTES)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    finally:
        os.close(descriptor)


def _is_complete(folder: Path) -> bool:
    """Whether the file is as long as its first pages say: to read what is missing would be a SIGBUS."""
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, create=False) as environment:
            end = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        return end <= (folder / _DATA).stat().st_size
    except (lmdb.Error, OSError):
        return not (folder / _DATA).exists()


def _is_sound(folder: Path) -> bool:
    if not (folder / _DATA).exists():
        return True
    if not sys.executable:
        return False
    try:
        # -P: this folder must not become the child's module path.
        command = [sys.executable, "-P", probe.__file__, str(folder)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _wipe(folder: Path) -> None:
    for name in (_DATA, _LOCK_TABLE):
        (folder / name).unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove an index that nobody will open again; what cannot be removed is left."""
    shutil.rmtree(folder, ignore_errors=True)


def is_in_use(folder: Path) -> bool:
    """Whether any process has the index in ``folder`` open."""
    if not folder.is_dir():
        return False
    marker = Marker(folder)
    try:
        return not marker.alone()
    finally:
        marker.close()


@contextmanager
def _own_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (lmdb.MapFullError, lmdb.MapResizedError, CasbankError):
        raise
    except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError) as error:
        raise CorruptionError(
            f"the index is damaged ({error}); run 'casbank index rebuild'", kind=ErrorKind.INDEX_VALUE
        ) from error
    except lmdb.DiskError as error:
        raise StoreError("no space is left for the index", kind=ErrorKind.DISK_FULL, path=folder) from error
    except lmdb.Error as error:
        raise StoreError(f"the index cannot be used: {error}", path=folder) from error
    except OSError as error:
        raise _translated(error, folder) from error


def _translated(error: OSError, folder: Path) -> StoreError:
    return error if isinstance(error, StoreError) else translate(error, "the index cannot be used", path=folder)


class _Gate:
    """Lets many in, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            if self._waiting:
                # Readers that follow each other without a gap would keep the one waiting for ever.
                self._changed.wait_for(lambda: not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                if not self._inside:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._inside)
                yield
            finally:
                self._waiting -= 1
                self._changed.notify_all()
