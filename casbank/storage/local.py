"""Blobs as files below one folder: ``packs/ab/abcd`` is ``<root>/packs/ab/abcd``.

Rule 1: a blob is written under ``tmp/``, synced, linked to its name, and its folder synced; then ``put_new`` returns.
Rule 2: a temporary file is locked while its writer lives, so that ``clean`` can tell the dead ones from the others.
Rule 3: after any failure the temporary file is abandoned and removed, never continued (``files.py``, rule 2).
A crash at any point leaves a temporary file at most, or a whole blob whose name nobody was told.
"""

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path

from casbank.errors import AlreadyExistsError, ErrorKind, NotFoundError, ReadOnlyError
from casbank.model import Buffer
from casbank.storage.base import TEMPORARY_FOLDER, BlobInfo, check_blob_name, check_range, is_blob_name
from casbank.storage.files import (
    close_file,
    fsync_file,
    fsync_folder,
    lock_descriptor,
    make_folder,
    translate,
    write_parts,
)
from casbank.world import REAL_WORLD, World

# Enough for the packs that neighbouring reads touch, few beside a process's usual 1,024.
OPEN_BLOBS_MAX = 64

# Nobody writes to a blob again; the owner of the file may still remove it.
_BLOB_MODE = 0o444


class LocalStore:
    """A ``Store`` on a local disk. Nothing is created before the first ``put_new``."""

    def __init__(self, root: Path, *, world: World = REAL_WORLD, read_only: bool = False) -> None:
        self.root = root
        self._world = world
        self._read_only = read_only
        self._temporaries = root / TEMPORARY_FOLDER
        self._durable_folders: set[Path] = set()
        self._open_blobs = _OpenBlobs(root, OPEN_BLOBS_MAX)

    def put_new(self, name: str, parts: Sequence[Buffer]) -> None:
        check_blob_name(name)
        self._check_writable()
        final = self.root / name
        try:
            # Saves writing in vain; the link decides.
            if os.path.lexists(final):
                raise AlreadyExistsError("the name of this blob is taken", blob=name)
            self._make_folders(self._temporaries, final.parent)
            with self._temporary() as (descriptor, temporary):
                write_parts(descriptor, parts)
                fsync_file(descriptor)
                _link(temporary, final, name)
            _sync_name(final)
        except OSError as error:
            # It may have failed because somebody removed a folder: look again next time.
            self._durable_folders.clear()
            raise translate(error, "cannot store a blob", blob=name, root=self.root) from error

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        check_blob_name(name)
        check_range(start, length)
        try:
            with self._open_blobs.reading(name) as descriptor:
                size = _blob_size(os.fstat(descriptor), name)
                # Cut here, because pread allocates all it is asked for.
                end = size if length is None else min(size, start + length)
                return _read(descriptor, start, end)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("no such blob", blob=name) from None
        except OSError as error:
            raise translate(error, "cannot read a blob", blob=name, root=self.root) from error

    def size(self, name: str) -> int:
        check_blob_name(name)
        try:
            return _blob_size((self.root / name).stat(), name)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("no such blob", blob=name) from None
        except OSError as error:
            raise translate(error, "cannot look at a blob", blob=name, root=self.root) from error

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        try:
            yield from _walk(self.root, "", prefix)
        except OSError as error:
            raise translate(error, "cannot list blobs", prefix=prefix, root=self.root) from error

    def copy(self, name: str, target: str) -> None:
        check_blob_name(name)
        check_blob_name(target)
        self._check_writable()
        final = self.root / target
        try:
            self._make_folders(final.parent)
            # A blob is never changed, so a second name is as good as a copy, also for what no disk can read any more.
            _link(self.root / name, final, target)
            _sync_name(final)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("no such blob", blob=name) from None
        except OSError as error:
            self._durable_folders.clear()
            raise translate(error, "cannot copy a blob", blob=name, root=self.root) from error

    def delete(self, name: str) -> None:
        check_blob_name(name)
        self._check_writable()
        try:
            (self.root / name).unlink()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise translate(error, "cannot delete a blob", blob=name, root=self.root) from error
        self._open_blobs.drop(name)

    def clean(self) -> int:
        """Remove the temporary files of dead writers; how many there were. Raises ReadOnlyError, StoreError."""
        self._check_writable()
        try:
            return sum(_remove_if_dead(path) for path in sorted(self._temporaries.iterdir()))
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise translate(error, "cannot remove temporary files", path=self._temporaries) from error

    def close(self) -> None:
        self._open_blobs.close()

    def _check_writable(self) -> None:
        if self._read_only:
            raise ReadOnlyError("the store was opened read-only", kind=ErrorKind.OPENED_READ_ONLY, root=self.root)

    def _make_folders(self, *folders: Path) -> None:
        for folder in folders:
            if folder not in self._durable_folders:
                make_folder(folder)
                self._durable_folders.add(folder)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        """A new, locked, empty file; unlinked in the end, whatever became of it."""
        descriptor, path = self._create_temporary()
        try:
            yield descriptor, path
        finally:
            # Neither can hurt what is linked and synced by now, nor mend what failed; what stays, clean() removes.
            with suppress(OSError):
                path.unlink()
            close_file(descriptor)

    def _create_temporary(self) -> tuple[int, Path]:
        while True:
            path = self._temporaries / f"{os.getpid()}-{self._world.entropy(8).hex()}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _BLOB_MODE)
            try:
                locked = lock_descriptor(descriptor, exclusive=True, blocking=False)
                if locked and os.fstat(descriptor).st_nlink:
                    return descriptor, path
            except OSError:
                close_file(descriptor)
                path.unlink(missing_ok=True)
                raise
            # A cleaner came between the creation and the lock; the file is its by now.
            close_file(descriptor)


class _OpenBlob:
    """A descriptor and who uses it; closed when it is dropped and nobody does."""

    __slots__ = ("descriptor", "dropped", "readers")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.readers = 0
        self.dropped = False


class _OpenBlobs:
    """The descriptors of the blobs that were read last: a range read need not open anything.

    One lock guards the table and the counts; it is never held over a system call on a disk but close.
    """

    def __init__(self, root: Path, capacity: int) -> None:
        self._root = root
        self._capacity = capacity
        self._lock = threading.Lock()
        self._blobs: OrderedDict[str, _OpenBlob] = OrderedDict()

    @contextmanager
    def reading(self, name: str) -> Iterator[int]:
        """The blob's descriptor, which stays open until the context ends. Raises OSError."""
        blob = self._known(name) or self._opened(name)
        try:
            yield blob.descriptor
        except NotFoundError:
            # Deleted by another process: to keep it open would keep its space.
            self.drop(name)
            raise
        finally:
            with self._lock:
                blob.readers -= 1
                self._close_if_idle(blob)

    def drop(self, name: str) -> None:
        with self._lock:
            if blob := self._blobs.pop(name, None):
                self._drop(blob)

    def close(self) -> None:
        with self._lock:
            # A read that comes late is served, but not remembered.
            self._capacity = 0
            self._drop_oldest()

    def _known(self, name: str) -> _OpenBlob | None:
        with self._lock:
            blob = self._blobs.get(name)
            if blob:
                self._blobs.move_to_end(name)
                blob.readers += 1
            return blob

    def _opened(self, name: str) -> _OpenBlob:
        # Not to wait for the other end of a pipe that somebody put here.
        blob = _OpenBlob(os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        with self._lock:
            blob.readers += 1
            if rival := self._blobs.pop(name, None):
                self._drop(rival)
            self._blobs[name] = blob
            self._drop_oldest()
        return blob

    def _drop_oldest(self) -> None:
        while len(self._blobs) > self._capacity:
            self._drop(self._blobs.popitem(last=False)[1])

    def _drop(self, blob: _OpenBlob) -> None:
        blob.dropped = True
        self._close_if_idle(blob)

    @staticmethod
    def _close_if_idle(blob: _OpenBlob) -> None:
        if blob.dropped and not blob.readers:
            close_file(blob.descriptor)


def _link(temporary: Path, final: Path, name: str) -> None:
    # link(2) and a later unlink rather than rename(2): rename replaces silently, and two writers with one pack name
    # mean a bug in the ids that we want to hear about.
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise AlreadyExistsError("the name of this blob is taken", blob=name) from None


def _sync_name(final: Path) -> None:
    try:
        fsync_folder(final.parent)
    except OSError:
        # The caller will hear that nothing was stored, so nothing may be seen either.
        with suppress(OSError):
            final.unlink()
        raise


def _remove_if_dead(temporary: Path) -> bool:
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, because the file's mode lets nobody open it for writing; the writer's exclusive lock is in its way.
        dead = lock_descriptor(descriptor, exclusive=False, blocking=False)
        if dead:
            temporary.unlink(missing_ok=True)
        return dead
    finally:
        close_file(descriptor)


def _blob_size(status: os.stat_result, name: str) -> int:
    """The length of a file that is a blob and has a name still."""
    if not stat.S_ISREG(status.st_mode) or not status.st_nlink:
        raise NotFoundError("no such blob", blob=name)
    return status.st_size


def _read(descriptor: int, start: int, end: int) -> bytes:
    """The bytes from start to end; fewer if the file ends before."""
    content = os.pread(descriptor, end - start, start) if start < end else b""
    if len(content) >= end - start:
        return content
    # One pread stops at 2 GiB, or at a signal.
    pieces = [content]
    while pieces[-1]:
        start += len(pieces[-1])
        pieces.append(os.pread(descriptor, end - start, start))
    return b"".join(pieces)


def _walk(folder: Path, path: str, prefix: str) -> Iterator[BlobInfo]:
    """The blobs below a folder whose names begin with the prefix; ``path`` is the folder's name, with its slash."""
    for name, entry in _sorted_entries(folder, path):
        if name.endswith("/"):
            if name.startswith(prefix) or prefix.startswith(name):
                yield from _walk(folder / entry.name, name, prefix)
        elif name.startswith(prefix) and (status := _status(entry)):
            yield BlobInfo(name, status.st_size, status.st_mtime_ns)


def _sorted_entries(folder: Path, path: str) -> list[tuple[str, os.DirEntry[str]]]:
    """A folder's files and folders by name, these with their slash: so ``a-b``, ``a/b``, ``a0`` come in byte order.

    What stands there and has no blob's name (tmp, a lost+found, an editor's backup) is left out, and so are links.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(path + entry.name, entry) for entry in entries]
    except FileNotFoundError:
        # Nothing was stored yet, or the folder was removed meanwhile.
        return []
    rows = [(name + _slash(entry), entry) for name, entry in found if is_blob_name(name) and not entry.is_symlink()]
    return sorted(rows, key=itemgetter(0))


def _slash(entry: os.DirEntry[str]) -> str:
    return "/" if entry.is_dir(follow_symlinks=False) else ""


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None for what was deleted since its folder was read."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
