"""Segments: the files of the local log, each named by the number of its first record, ``<20 digits>.log``.

Rule 1: a segment holds consecutive records from its first number on. What it holds at or behind the first number of
the next segment does not count: a takeover may have died between copying a tail forward and cutting it off.
Rule 2: behind the last frame there are zero bytes only, allocated ahead, or the remains of a writer that died.
Rule 3: nothing is read through a memory map: a takeover may cut a file while others read it.
Files are read, written and cut here; whether that is right is for ``casbank.journal.local`` to know.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, StoreError
from casbank.journal.base import EMPTY_HEAD, RECORD_HASH_BYTES, Head, Superseded
from casbank.journal.frame import FRAME_HEAD_BYTES, FrameScanner, Stop, find_later_frame, read_frame_head
from casbank.storage import files

_NAME = re.compile(r"([0-9]{20})\.log", re.ASCII)
_BLOCK_BYTES = 1 * limits.MIB


class Position(NamedTuple):
    """A place behind a record: the segment (its first number), the bytes of it up to there, and the record's head.

    A segment that was begun and holds no record yet has length 0, and the head is the record before it.
    """

    segment: int
    length: int
    head: Head


class Survey(NamedTuple):
    """What is on disk, where no mark can be trusted: the end of the valid frames, and what follows it there."""

    position: Position
    stop: Stop


class SegmentFile:
    """One open segment. Everything but ``write`` raises StoreError for what the disk does."""

    def __init__(self, path: Path, first: int, flags: int) -> None:
        self.path = path
        self.first = first
        self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def __enter__(self) -> "SegmentFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            files.close_file(descriptor)

    def size(self) -> int:
        """The file's length in bytes, with what is allocated ahead."""
        return os.fstat(self.descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``: fewer than ``length`` at the end of the file only."""
        parts = []
        try:
            while length > 0 and (part := os.pread(self.descriptor, length, offset)):
                parts.append(part)
                offset += len(part)
                length -= len(part)
        except OSError as error:
            raise files.translate(error, "cannot read the journal", path=self.path) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def scanner(self, *, offset: int = 0, seq: int) -> FrameScanner:
        """A scan of the frames from ``offset`` on, the first of which has number ``seq``."""
        return FrameScanner(self.read_at, offset=offset, seq=seq)

    def ends_in(self, position: Position) -> bool:
        """Whether the bytes before ``position`` are the hash that ends its record."""
        if position.length == 0:
            return True
        return self.read_at(position.length - RECORD_HASH_BYTES, RECORD_HASH_BYTES) == position.head.hash

    def has_head_at(self, offset: int, seq: int) -> bool:
        """Whether the frame of record ``seq`` begins here, as its head says."""
        head = read_frame_head(self.read_at, offset)
        return head is not None and head.seq == seq

    def is_blank_at(self, offset: int) -> bool:
        """Whether no frame begins here: zero bytes, or the end of the file."""
        return not any(self.read_at(offset, FRAME_HEAD_BYTES))

    def grow(self, needed: int, step: int) -> int:
        """Allocate up to a multiple of ``step``, or, if the disk is too full for it, what is needed; the new length."""
        try:
            return self._allocate(-(-needed // step) * step)
        except StoreError as error:
            if error.kind is not ErrorKind.DISK_FULL:
                raise
        return self._allocate(needed)

    def _allocate(self, end: int) -> int:
        with translated("no room for the journal", path=self.path, bytes=end):
            _allocate(self.descriptor, end)
        return end

    def write(self, data: list[memoryview], offset: int) -> list[memoryview]:
        """Write some of ``data``, and return what is left. Raises OSError."""
        written = os.pwritev(self.descriptor, data, offset)
        left = []
        for view in data:
            left += [view[written:]] if written < len(view) else []
            written = max(0, written - len(view))
        return left

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from ``start`` to ``end``, in blocks of 1 MiB."""
        for offset in range(start, end, _BLOCK_BYTES):
            yield self.read_at(offset, min(_BLOCK_BYTES, end - offset))

    def cut(self, length: int) -> None:
        """Let the file end at ``length``."""
        with translated("cannot cut the journal", path=self.path):
            os.ftruncate(self.descriptor, length)


def _allocate(descriptor: int, end: int) -> None:
    """Give the file blocks up to ``end``, all zero."""
    start = os.fstat(descriptor).st_size
    if start >= end:
        return
    # macOS has no such call; musl says EOPNOTSUPP where glibc writes zeros. Then the write itself finds a full disk.
    allocate = getattr(os, "posix_fallocate", None)
    try:
        if allocate is not None:
            allocate(descriptor, start, end - start)
            return
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    os.ftruncate(descriptor, end)


class SegmentFolder:
    """The folder of the segments. Reads only, but for ``create`` and ``remove``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, first: int) -> Path:
        """The name of the segment whose first record is ``first``."""
        return self._folder / f"{first:020d}.log"

    def firsts(self) -> list[int]:
        """The first numbers of all segments, ascending; none if there is no folder."""
        names: list[str] = []
        with translated("cannot list the journal", path=self._folder), suppress(FileNotFoundError):
            names = [path.name for path in self._folder.iterdir()]
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)

    def open(self, first: int, *, writable: bool = False) -> SegmentFile:
        """Open a segment. Raises CorruptionError (kind JOURNAL) if there is none, StoreError."""
        path = self.path(first)
        with translated("cannot open the journal", path=path):
            try:
                return SegmentFile(path, first, os.O_RDWR if writable else os.O_RDONLY)
            except FileNotFoundError as error:
                raise damage("a segment of the journal is missing", path=path) from error

    def create(self, first: int) -> SegmentFile:
        """Create an empty segment; durable only after an fsync of it and of the folder. Raises StoreError."""
        path = self.path(first)
        with translated("cannot begin a segment of the journal", path=path):
            return SegmentFile(path, first, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def remove(self, first: int) -> None:
        """Delete a segment, if it is still there. Raises StoreError."""
        with translated("cannot delete a segment of the journal", path=self.path(first)):
            self.path(first).unlink(missing_ok=True)

    def holding(self, seq: int) -> tuple[int, int | None]:
        """The segment that record ``seq`` is in, if it is anywhere, and the one that follows. Raises Superseded."""
        firsts = self.firsts()
        if not firsts or seq < firsts[0]:
            raise Superseded(seq)
        number = max(number for number, first in enumerate(firsts) if first <= seq)
        return firsts[number], firsts[number + 1] if number + 1 < len(firsts) else None

    def bytes_before(self, first: int) -> int:
        """The bytes of all segments before this one."""
        sizes = 0
        for earlier in self.firsts():
            if earlier < first:
                with suppress(FileNotFoundError):
                    sizes += self.path(earlier).stat().st_size
        return sizes

    def survey(self) -> Survey:
        """Scan the last segment. Changes nothing.

        Raises CorruptionError (kind JOURNAL) if a valid frame follows a place that is not one, or if records are
        missing before the segment.
        """
        firsts = self.firsts()
        if not firsts:
            return Survey(Position(1, 0, EMPTY_HEAD), Stop.END)
        with self.open(firsts[-1]) as file:
            scanner = file.scanner(seq=file.first)
            head = scanner.run()
            stop = scanner.stop()
            if stop is Stop.TORN and (later := find_later_frame(file.read_at, scanner)) is not None:
                raise damage("damage below a valid frame", path=file.path, offset=scanner.offset, valid=later)
        return Survey(Position(file.first, scanner.offset, head or self._head_before(firsts)), stop)

    def _head_before(self, firsts: list[int]) -> Head:
        """The head before the last segment, which is empty: the last record that counts in the one before."""
        last = firsts[-1]
        if last == 1:
            return EMPTY_HEAD
        if len(firsts) > 1:
            with self.open(firsts[-2]) as file:
                head = file.scanner(seq=file.first).run(up_to=last - 1)
                if head is not None and head.seq == last - 1:
                    return head
        raise damage("the records before a segment of the journal are missing", path=self.path(last), seq=last - 1)


@contextmanager
def translated(message: str, **context: object) -> Iterator[None]:
    """Let what the system says of a file leave as StoreError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise files.translate(error, message, **context) from error


def damage(message: str, **context: object) -> CorruptionError:
    """The error that says where the journal is damaged."""
    return CorruptionError(message, kind=ErrorKind.JOURNAL, **context)
