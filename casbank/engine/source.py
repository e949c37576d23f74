"""Where the bytes of a put come from: bytes, a path, a binary file, an iterable; read into the caller's buffer.

Rule 1: bytes are copied into a buffer of ours before they are hashed: a caller may change its own meanwhile.
Rule 2: what a caller's file or iterator raises passes through unchanged.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import RawIOBase, TextIOBase
from typing import IO, Any, Protocol, TypeAlias, cast

from casbank.errors import ConflictError, ErrorKind, InvalidInputError, StoreError
from casbank.model import Buffer

Source: TypeAlias = Buffer | os.PathLike[str] | IO[bytes] | RawIOBase | Iterable[bytes]
"""What ``Bank.put`` takes."""

_END = object()


class Reader(Protocol):
    """Bytes, taken from front to back."""

    def readinto(self, target: memoryview) -> int:
        """Fill some or all of ``target`` (at least one byte long); 0 at the end."""

    def close(self) -> None:
        """Let go of what the reader itself opened; ConflictError if the source changed while it was read."""


def open_source(source: Source) -> Reader:
    """A reader for anything that ``put`` takes. InvalidInputError for what it does not, StoreError for a path that
    cannot be read."""
    if isinstance(source, str):
        raise InvalidInputError("content is bytes: wrap a path in pathlib.Path, encode a text")
    if isinstance(source, bytes | bytearray | memoryview):
        return _BytesReader(source)
    if isinstance(source, os.PathLike):
        return _PathReader(source)
    if isinstance(source, TextIOBase):
        raise InvalidInputError("content is bytes: open the file in binary mode")
    if hasattr(source, "readinto") or hasattr(source, "read"):
        return _FileReader(source)
    try:
        return _BytesReader(memoryview(cast(Any, source)))
    except TypeError:
        pass
    if isinstance(source, Iterable):
        return _IterableReader(iter(source))
    raise InvalidInputError(f"cannot store a {type(source).__name__}: pass bytes, a Path, a binary file or an iterable")


def repeatable(source: Source, *, keeps: bool) -> Callable[[], Reader] | None:
    """How to read a source once more, from where it stands now; None if that cannot be done.

    ``keeps``: the caller leaves it as it is until the put has returned. Otherwise only bytes and paths can be relied
    on: a buffer may be changed, and a file closed.
    """
    if isinstance(source, bytes | os.PathLike):
        return partial(open_source, source)
    if not keeps or isinstance(source, str | TextIOBase):
        return None
    if hasattr(source, "readinto") or hasattr(source, "read"):
        return _repeatable_file(source)
    if isinstance(source, Iterable) and not _has_buffer(source):
        return None
    return partial(open_source, source)


def _repeatable_file(file: Any) -> Callable[[], Reader] | None:
    try:
        start = file.tell() if file.seekable() else None
    except (AttributeError, OSError, ValueError):
        return None
    if start is None:
        return None

    def again() -> Reader:
        file.seek(start)
        return _FileReader(file)

    return again


def _has_buffer(source: object) -> bool:
    try:
        memoryview(cast(Any, source)).release()
    except TypeError:
        return False
    return True


def keep(reader: Reader, limit: int) -> tuple[Reader, bytes | None]:
    """Read up to ``limit`` bytes into memory: a reader of the whole, and the bytes if that was all."""
    kept = bytearray(limit)
    view, fill = memoryview(kept), 0
    while fill < limit and (count := reader.readinto(view[fill:])):
        fill += count
    view.release()
    del kept[fill:]
    if fill < limit:
        reader.close()
        whole = bytes(kept)
        return _BytesReader(whole), whole
    return _JoinedReader(_BytesReader(kept), reader), None


class _JoinedReader:
    """One reader behind another."""

    def __init__(self, first: Reader, second: Reader) -> None:
        self._first = first
        self._second = second

    def readinto(self, target: memoryview) -> int:
        return self._first.readinto(target) or self._second.readinto(target)

    def close(self) -> None:
        self._first.close()
        self._second.close()


def flat(data: Buffer) -> memoryview:
    """One-dimensional view of a buffer's bytes. InvalidInputError unless it is contiguous."""
    try:
        return memoryview(data).cast("B")
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"cannot store this buffer: {error}") from error


class _BytesReader:
    def __init__(self, data: Buffer) -> None:
        self._rest = flat(data)

    def readinto(self, target: memoryview) -> int:
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._rest.release()


class _PathReader:
    """Reads with bare system calls: a tree of small files costs little but these."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise _unreadable(path, error) from error
        self._before = status.st_size, status.st_mtime_ns
        # A regular file that did not change ends where it says. Others (and those of /proc) say 0.
        self._left = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._knows_its_end = self._left > 0

    def readinto(self, target: memoryview) -> int:
        if self._knows_its_end and not self._left:
            return 0
        try:
            count = os.readv(self._descriptor, [target])
        except OSError as error:
            raise _unreadable(self._path, error) from error
        self._left = max(0, self._left - count)
        return count

    def close(self) -> None:
        if self._descriptor < 0:
            return
        status = os.fstat(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        if (status.st_size, status.st_mtime_ns) != self._before:
            raise ConflictError(
                "the file changed while it was read", kind=ErrorKind.SOURCE_CHANGED, path=os.fspath(self._path)
            )


class _FileReader:
    def __init__(self, file: Any) -> None:
        self._file = file
        self._readinto = getattr(file, "readinto", None)

    def readinto(self, target: memoryview) -> int:
        if self._readinto is not None:
            count = self._readinto(target)
            if count is None:
                raise InvalidInputError("cannot store from a file in non-blocking mode")
            return int(count)
        data = self._file.read(len(target))
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidInputError(f"content is bytes: the file gave {type(data).__name__}")
        if len(data) > len(target):
            raise InvalidInputError(f"the file gave {len(data)} bytes where {len(target)} were asked for")
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """The file is the caller's."""


class _IterableReader:
    def __init__(self, parts: Iterator[Any]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def readinto(self, target: memoryview) -> int:
        while not self._rest:
            # Let go of the last part before the next is asked for: its owner may want to change its size.
            self._rest = memoryview(b"")
            part = next(self._parts, _END)
            if part is _END:
                return 0
            if not isinstance(part, bytes | bytearray | memoryview):
                raise InvalidInputError(f"content is bytes: the iterable gave {type(part).__name__}")
            self._rest = flat(part)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """The iterable is the caller's."""


def _unreadable(path: os.PathLike[str], error: OSError) -> StoreError:
    failed = StoreError(f"cannot read {os.fspath(path)}: {error.strerror or error}")
    failed.errno = error.errno
    return failed
