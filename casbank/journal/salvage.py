"""Restart: the local log gives way to one record, and what it held goes to the quarantine.

Rule 1: every segment is linked into a folder of the quarantine, and the mark copied there, durably, before anything
of the log changes. The folder can itself be read as a log.
Rule 2: the mark is at *writing* before the new segment gets its name, so that no writer goes on where he remembers the
log's end: that may be in a file that is set aside. The name comes when the segment is whole and synced. Then the mark:
from there on this is the log for every process of this boot. It is synced, too: an old mark that came back after a
power cut would remember records that are no longer to be there.
Rule 3: the old segments are deleted last, the youngest first: until the newest one is the record's, no writer goes on.
Who finds a restart that died calls for another. Needed is the log's exclusive lock, and nothing of what the log holds.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from casbank.format.record import record_hash
from casbank.journal.base import Head
from casbank.journal.frame import encode_frame_head
from casbank.journal.segment import Position, SegmentFolder, translated
from casbank.journal.synced import SyncedFile, newest_mark
from casbank.storage import files
from casbank.world import World

_Subject = TypeVar("_Subject")

_RANDOM_BYTES = 8


class Sync(Protocol):
    """Carries out an fsync, and raises StoreError if it fails."""

    def __call__(self, operation: Callable[[_Subject], None], subject: _Subject, /) -> None: ...


class Restart:
    """One restart of the log in ``folder``, of which ``synced`` is the mark, ready to be written."""

    def __init__(self, folder: Path, *, synced: SyncedFile, quarantine: Path, world: World, sync: Sync) -> None:
        self._folder = folder
        self._segments = SegmentFolder(folder)
        self._synced = synced
        self._quarantine = quarantine
        self._world = world
        self._sync = sync

    def run(self, seq: int, record: bytes) -> None:
        """Put the record, under this number, in the place of all that is there. Raises StoreError."""
        old = self._segments.firsts()
        self._set_aside(old)
        self._announce()
        position = self._begin(seq, record)
        self._mark(position)
        for first in reversed(old):
            if first != seq:
                self._segments.remove(first)
        self._sync(files.fsync_folder, self._folder)

    def _set_aside(self, firsts: list[int]) -> None:
        name = f"journal-{self._world.now_ns()}-{self._world.entropy(_RANDOM_BYTES).hex()}"
        aside = self._quarantine / name
        with translated("cannot set the journal aside", path=aside):
            files.make_folder(aside)
            for first in firsts:
                # Forgotten just now: forgetting takes no lock.
                with suppress(FileNotFoundError):
                    self._link(self._segments.path(first), aside)
        # A copy, because the mark is written in place.
        self._write(aside / "synced", [self._synced.content()])
        self._sync(files.fsync_folder, aside)

    def _link(self, path: Path, aside: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # What a dead writer left may be in memory only.
            self._sync(files.fsync_file, descriptor)
        finally:
            os.close(descriptor)
        os.link(path, aside / path.name)

    def _announce(self) -> None:
        mark = newest_mark(self._synced.content())
        # One that is not trusted would be by this; and nobody remembers an end under it.
        if mark is not None and self._synced.trusts(mark):
            with translated("cannot write the journal's mark", path=self._folder):
                self._synced.write(mark.position, writing=True)

    def _begin(self, seq: int, record: bytes) -> Position:
        """Write the segment of this one record, under its name at once; where it ends."""
        frame = [encode_frame_head(seq, len(record)), record]
        temporary, path = self._folder / "rewrite", self._segments.path(seq)
        with translated("cannot restart the journal", path=path):
            temporary.unlink(missing_ok=True)
            self._write(temporary, frame)
            temporary.replace(path)
        self._sync(files.fsync_folder, self._folder)
        return Position(seq, sum(map(len, frame)), Head(seq, record_hash(record)))

    def _mark(self, position: Position) -> None:
        with translated("cannot write the journal's mark", path=self._folder):
            # Both slots: the older one stands in for the newer.
            self._synced.write(position, writing=True)
            self._synced.write(position, writing=False)
        self._sync(SyncedFile.sync, self._synced)

    def _write(self, path: Path, parts: list[bytes]) -> None:
        """Write a new file and sync it."""
        with translated("cannot write a part of the journal", path=path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                files.write_parts(descriptor, parts)
                self._sync(files.fsync_file, descriptor)
            finally:
                os.close(descriptor)
