"""The mark: up to where the local log is synced, in a small file that all processes of one boot share.

Rule 1: the mark is never synced, but for the restart of a log, after which the old one must not come back. It lives in
the page cache, and is trusted only by who knows that its pages, and those of the log, are still the ones that the
writers left: it carries this boot, this mount and this very file; or it was written while we had the file open, which
keeps the file system mounted (containers see one mount as several).
Rule 2: it is written twice around each change of the log: *writing* before the first byte changes, *synced* after the
last one is durable. So whoever finds it *synced* knows that no writer died half-way, without looking at the log.
Rule 3: two slots are written in turn, each with a check of its own, so a reader or a crash meets at most one torn
one, and the other says what held before. Of two valid ones the higher counter is the newer.
Rule 4: it is read through a memory map (comparing it costs no system call) and written with pwrite (a full disk is
then an error and not a SIGBUS). Only the holder of the log's exclusive lock writes.

A slot, little-endian: ``magic "CASSYNC1" | identity 16 | counter u64 | state u64 (1 writing, 0 synced) | first seq of
the segment u64 | synced bytes of that segment u64 | seq u64 and hash 32 of the last record | first 8 bytes of BLAKE3
over all before``. The file is two slots.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from casbank.journal.base import Head
from casbank.journal.segment import Position, translated
from casbank.storage import files, mount
from casbank.world import World

_MAGIC = b"CASSYNC1"
_SLOT = struct.Struct("<8s16sQQQQQ32s")
_CHECK_BYTES = 8
_IDENTITY_BYTES = 16
SLOT_BYTES = _SLOT.size + _CHECK_BYTES
SYNCED_BYTES = 2 * SLOT_BYTES


class Mark(NamedTuple):
    """One slot's content. ``position`` is what is synced, ``writing`` whether someone began to change what follows."""

    identity: bytes
    counter: int
    writing: bool
    position: Position


def encode_mark(mark: Mark) -> bytes:
    """The slot that says so."""
    (segment, length, head) = mark.position
    fields = _SLOT.pack(_MAGIC, mark.identity, mark.counter, mark.writing, segment, length, head.seq, head.hash)
    return fields + _check(fields)


def decode_mark(slot: bytes) -> Mark | None:
    """What a slot says, or None if it is torn, empty or of another format."""
    if len(slot) != SLOT_BYTES or _check(slot[: _SLOT.size]) != slot[_SLOT.size :]:
        return None
    magic, identity, counter, state, segment, length, seq, digest = _SLOT.unpack_from(slot)
    position = Position(segment, length, Head(seq, digest))
    return Mark(identity, counter, bool(state), position) if magic == _MAGIC else None


def newest_mark(content: bytes) -> Mark | None:
    """The newer of the two marks in the file's content, or None if neither slot holds."""
    marks = [decode_mark(content[:SLOT_BYTES]), decode_mark(content[SLOT_BYTES:])]
    return max((mark for mark in marks if mark is not None), key=lambda mark: mark.counter, default=None)


def _check(fields: bytes) -> bytes:
    return blake3(fields).digest(_CHECK_BYTES)


def _which(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class SyncedFile:
    """The file at ``path``; opened when it is first needed, created by ``prepare`` alone."""

    def __init__(self, path: Path, *, world: World) -> None:
        self._path = path
        self._world = world
        self._map: mmap.mmap | None = None
        self._identity = b""
        self._file = (0, 0)
        self._counter_found = 0
        self._descriptor = -1

    def content(self) -> bytes:
        """The file's bytes as they are now; empty if there is no file yet. Raises StoreError."""
        mapped = self._map
        if mapped is None:
            mapped = self._open_map()
        return b"" if mapped is None else mapped[:]

    def trusts(self, mark: Mark) -> bool:
        """Whether the mark, which is of the present content, speaks of the page cache as it is now."""
        return mark.identity == self._identity or mark.counter > self._counter_found

    def prepare(self) -> None:
        """Make the file ready to be written: under the lock, once a turn. Raises StoreError."""
        with translated("cannot open the journal's mark", path=self._path):
            if not self._is_in_place():
                self.close()
            if self._descriptor < 0:
                self._descriptor = self._open()
            if self._map is None:
                self._map_file(self._descriptor)

    def write(self, position: Position, *, writing: bool) -> None:
        """Replace the older slot. Raises OSError: what that means depends on what was being done."""
        newest = newest_mark(self.content())
        counter = 1 if newest is None else newest.counter + 1
        slot = encode_mark(Mark(self._identity, counter, writing, position))
        if os.pwrite(self._descriptor, slot, counter % 2 * SLOT_BYTES) != SLOT_BYTES:
            raise OSError("the mark was written in part")

    def sync(self) -> None:
        """Bring the marks to stable storage. Raises OSError."""
        files.fsync_file(self._descriptor)

    def close(self) -> None:
        """Let go of the file; it is opened again when needed."""
        self._map = None
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            files.close_file(descriptor)

    def _is_in_place(self) -> bool:
        """Whether the file that we have open is the one that others would open: someone may have deleted it."""
        try:
            return _which(self._path.stat()) == self._file
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if os.fstat(descriptor).st_size < SYNCED_BYTES:
            # New, or its creator died. Written rather than cut to length: a hole in a map is a SIGBUS on a full disk.
            os.pwrite(descriptor, bytes(SYNCED_BYTES), 0)
        return descriptor

    def _open_map(self) -> mmap.mmap | None:
        with translated("cannot open the journal's mark", path=self._path):
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return self._map_file(descriptor) if os.fstat(descriptor).st_size >= SYNCED_BYTES else None
            finally:
                files.close_file(descriptor)

    def _map_file(self, descriptor: int) -> mmap.mmap:
        mapped = mmap.mmap(descriptor, SYNCED_BYTES, prot=mmap.PROT_READ)
        found = newest_mark(mapped[:])
        self._file = _which(os.fstat(descriptor))
        self._identity = self._identify()
        self._counter_found = 0 if found is None else found.counter
        self._map = mapped
        return mapped

    def _identify(self) -> bytes:
        """What our marks carry. The inode is in it because a folder may be copied together with its mark."""
        boot, attached = mount.boot_id(), mount.mount_of(self._path).identity
        if mount.UNKNOWN in (boot, attached):
            # Nobody can tell: who opens the file later must not believe it.
            return self._world.entropy(_IDENTITY_BYTES)
        return blake3(f"{boot}\n{attached}\n{self._file}".encode()).digest(_IDENTITY_BYTES)
