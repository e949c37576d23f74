"""The local log: frames appended to preallocated segments, one fdatasync a commit.

Rule 1: an append writes *writing* into the mark, the frame into allocated space, syncs, and writes *synced* with the
new end. Only what the mark calls synced is shown to readers of this boot.
Rule 2: whoever takes the lock and finds the mark at *writing*, or bytes behind it, has met the tail of a dead writer
or of a failed fsync. Its pages can be read and may yet be lost, so valid frames there are copied into a new segment,
which is synced (file, then folder) before anything is appended; then the old tail is cut off.
Rule 3: without a mark of this boot and mount, what can be read is on disk. A place that is neither a frame nor blank
is cut off only if no valid frame follows and no older mark remembers a later record; else it is damage, and nothing
is changed.
Rule 4: bytes that are cut off without being valid frames go to the quarantine first.
Rule 5: after a failed fsync this instance writes no more, and never tries that fsync again.
A takeover may die at any step: it changes the log in an order in which the next one finds the same records, and the
mark stays at *writing* until it is done. Lost then are only the bytes of a record that nobody was told of.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, InvalidInputError, ReadOnlyError, StoreError
from casbank.format.record import record_hash
from casbank.journal.base import Head, JournalDamage, JournalEntry, SeqTaken, check_record, check_seq
from casbank.journal.frame import FRAME_HEAD_BYTES, Frame, Stop, data_end, encode_frame_head
from casbank.journal.inspection import Inspection
from casbank.journal.salvage import Restart
from casbank.journal.segment import Position, SegmentFile, SegmentFolder, Survey, damage, translated
from casbank.journal.synced import Mark, SyncedFile, newest_mark
from casbank.storage import files, mount
from casbank.world import World

_Subject = TypeVar("_Subject")

_RANDOM_BYTES = 8
# No content of a mark: a tail that carries it is never taken for the mark's.
_UNSETTLED = b""


class _Tail(NamedTuple):
    """What a writer knows between two appends, as long as the mark's bytes stay ``content``."""

    content: bytes
    position: Position
    file: SegmentFile
    allocated: int


class _Cursor(NamedTuple):
    """Where the last reading stood: record ``seq`` begins at ``offset`` of the segment, if it is in that segment."""

    segment: int
    offset: int
    seq: int


class LocalJournal:
    """A ``Journal`` in a folder of a local disk: ``lock``, ``synced`` and the segments ``<20 digits>.log``.

    ``quarantine`` is the folder for torn bytes, created when needed. A segment that is longer than
    ``segment_bytes_max`` is followed by a new one; space is allocated ``grow_bytes`` at a time. With ``read_only``
    nothing is ever created or changed. Files are opened when they are first needed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        world: World,
        read_only: bool = False,
        quarantine: Path,
        segment_bytes_max: int = limits.SEGMENT_BYTES_MAX,
        grow_bytes: int = limits.SEGMENT_GROW_BYTES,
    ) -> None:
        self._folder = folder
        self._world = world
        self._read_only = read_only
        self._quarantine = quarantine
        self._segment_bytes_max = segment_bytes_max
        self._grow_bytes = grow_bytes
        self._segments = SegmentFolder(folder)
        self._synced = SyncedFile(folder / "synced", world=world)
        self._mutex = threading.Lock()
        self._lock: files.FileLock | None = None
        self._turn_of: int | None = None
        # Whether the turn is one in which the log may be restarted.
        self._is_salvaged = False
        self._fsync_failed = False
        self._tail: _Tail | None = None
        # One assignment replaces each of these, so threads need no lock to read them.
        self._seen: tuple[bytes, Position] | None = None
        self._cursor = _Cursor(0, 0, 0)

    # --- reading -------------------------------------------------------------------------------------------------

    def head(self) -> Head:
        return self._end().head

    def first(self) -> int:
        following = self.head().seq + 1
        return min([following, *self._segments.firsts()])

    def bytes_held(self) -> int:
        end = self._end()
        return self._segments.bytes_before(end.segment) + end.length

    def read(self, after: int) -> Iterator[JournalEntry]:
        head = self.head()
        if after < head.seq:
            # Now and not at the first step, so that nobody takes an iterator for a promise.
            self._segments.holding(after + 1)
        return self._follow(after + 1, head)

    def inspect(self) -> Iterator[JournalEntry | JournalDamage]:
        return iter(Inspection(self._segments, self._synced))

    def _end(self) -> Position:
        content = self._synced.content()
        seen = self._seen
        return seen[1] if seen is not None and seen[0] == content else self._look(content)

    def _look(self, content: bytes) -> Position:
        """The end that these bytes of the mark stand for, or newer ones."""
        if self._seen is None:
            mount.refuse_network_file_system(self._folder)
        while (position := self._end_by(content)) is None:
            content = self._synced.content()
        self._seen = (content, position)
        return position

    def _end_by(self, content: bytes) -> Position | None:
        """The end, as these bytes of the mark have it; None if they are outdated by now."""
        mark = newest_mark(content)
        if mark is not None and self._synced.trusts(mark):
            return mark.position
        # Nobody has written since the machine was started, or someone just begins to: then the scan may have met a
        # change half-way, but the mark is another one already.
        try:
            position = self._survey(mark).position
        except CorruptionError:
            if self._synced.content() == content:
                raise
            return None
        return position if self._synced.content() == content else None

    def _survey(self, remembered: Mark | None) -> Survey:
        """What is on disk. Raises CorruptionError if a mark, though not of this boot, remembers more."""
        survey = self._segments.survey()
        found = survey.position.head
        if remembered is not None:
            head = remembered.position.head
            if found.seq < head.seq or (found.seq == head.seq and found != head):
                raise damage("acknowledged records are missing", path=self._folder, seq=head.seq, found=found.seq)
        return survey

    def _follow(self, seq: int, head: Head) -> Iterator[JournalEntry]:
        while seq <= head.seq:
            file, following = self._open_holding(seq)
            with file:
                last = head.seq if following is None else min(head.seq, following - 1)
                for frame in self._frames(file, seq, last):
                    seq = frame.seq + 1
                    self._cursor = _Cursor(file.first, frame.end, seq)
                    yield JournalEntry(frame.seq, frame.record)
            if seq <= last:
                raise damage("a record of the journal is damaged", path=file.path, seq=seq)

    def _frames(self, file: SegmentFile, seq: int, last: int) -> Iterator[Frame]:
        cursor = self._cursor
        known = cursor.segment == file.first and cursor.seq == seq and file.has_head_at(cursor.offset, seq)
        scanner = file.scanner(offset=cursor.offset, seq=seq) if known else file.scanner(seq=file.first)
        if scanner.skip_to(seq):
            yield from islice(scanner, last - seq + 1)

    def _open_holding(self, seq: int) -> tuple[SegmentFile, int | None]:
        first, following = self._segments.holding(seq)
        try:
            return self._segments.open(first), following
        except CorruptionError:
            # Forgotten since it was listed? Then the new list has nothing for this number.
            first, following = self._segments.holding(seq)
            return self._segments.open(first), following

    # --- writing -------------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._exclusive():
            if not self._fsync_failed:
                self._take_over()
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._exclusive():
            self._is_salvaged = True
            try:
                yield
            finally:
                self._is_salvaged = False

    def append(self, seq: int, record: bytes) -> None:
        self._refuse_read_only()
        if self._turn_of != threading.get_ident():
            raise InvalidInputError("an append needs a turn")
        check_record(record)
        self._refuse_after_failed_fsync()
        # Mends first if an append in this same turn was broken off.
        tail = self._take_over()
        if seq != tail.position.head.seq + 1:
            raise SeqTaken(seq)
        self._tail = tail = tail._replace(content=_UNSETTLED)
        self._mark(tail.position, writing=True)
        self._tail = tail = self._with_room(tail, FRAME_HEAD_BYTES + len(record))
        position = self._commit(tail, seq, record)
        self._tail = tail._replace(content=self._synced.content(), position=position)

    def forget(self, up_to: int) -> None:
        self._refuse_read_only()
        # The segment that holds the newest record stays, even if an empty one follows: the head's hash is in it.
        end = min(up_to + 1, self.head().seq)
        for first, following in pairwise(self._segments.firsts()):
            if following > end:
                break
            self._segments.remove(first)
            # One by one: a crash must not leave an older segment without a younger one.
            self._sync(files.fsync_folder, self._folder)

    def restart(self, seq: int, record: bytes) -> None:
        self._refuse_read_only()
        check_seq(seq)
        check_record(record)
        # No takeover: the log may be damaged, which is why it is restarted.
        is_held = self._is_salvaged and self._turn_of == threading.get_ident()
        with nullcontext() if is_held else self._exclusive():
            self._refuse_after_failed_fsync()
            self._synced.prepare()
            self._drop_tail()
            restart = Restart(
                self._folder, synced=self._synced, quarantine=self._quarantine, world=self._world, sync=self._sync
            )
            restart.run(seq, record)

    def close(self) -> None:
        self._drop_tail()
        self._synced.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _refuse_read_only(self) -> None:
        if self._read_only:
            raise ReadOnlyError("the journal was opened read-only", kind=ErrorKind.OPENED_READ_ONLY)

    def _refuse_after_failed_fsync(self) -> None:
        if self._fsync_failed:
            raise ReadOnlyError("an fsync of the journal failed: open the bank again", kind=ErrorKind.FSYNC_FAILED)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Shut out all other writers, threads and processes."""
        self._refuse_read_only()
        if self._turn_of == threading.get_ident():
            raise InvalidInputError("a thread cannot have two turns at once")
        with self._mutex, self._locked():
            self._turn_of = threading.get_ident()
            try:
                yield
            finally:
                self._turn_of = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._lock is None:
            mount.refuse_network_file_system(self._folder)
        with translated("cannot lock the journal", path=self._folder):
            lock = self._lock = self._lock or self._open_lock()
            lock.acquire(exclusive=True, blocking=True)
        try:
            yield
        finally:
            lock.release()

    def _open_lock(self) -> files.FileLock:
        files.make_folder(self._folder)
        return files.FileLock(self._folder / "lock")

    def _with_room(self, tail: _Tail, needed: int) -> _Tail:
        """The tail with so many bytes allocated behind it, in a new segment if the last one is long enough."""
        if tail.position.length >= self._segment_bytes_max:
            tail = self._roll(tail, needed)
        end = tail.position.length + needed
        if end <= tail.allocated:
            return tail
        # Not synced here: the commit's fdatasync takes the new length along.
        return tail._replace(allocated=tail.file.grow(end, self._grow_bytes))

    def _roll(self, tail: _Tail, needed: int) -> _Tail:
        """Begin the next segment, allocated and durable with its name."""
        # What was allocated ahead is given back; if a crash undoes that, zeros remain.
        tail.file.cut(tail.position.length)
        first = tail.position.head.seq + 1
        file = self._segments.create(first)
        try:
            allocated = file.grow(needed, self._grow_bytes)
            self._sync(files.fsync_file, file.descriptor)
            self._sync(files.fsync_folder, self._folder)
        except BaseException:
            # It stays, empty, and the next turn takes it for begun.
            file.close()
            raise
        tail.file.close()
        return _Tail(_UNSETTLED, Position(first, 0, tail.position.head), file, allocated)

    def _commit(self, tail: _Tail, seq: int, record: bytes) -> Position:
        """Write the frame, sync it, say so in the mark; the new end."""
        start = tail.position.length
        end = start + FRAME_HEAD_BYTES + len(record)
        frame = [memoryview(encode_frame_head(seq, len(record))), memoryview(record)]
        with translated("cannot write the journal", path=tail.file.path):
            left = tail.file.write(frame, start)
        position = Position(tail.file.first, end, Head(seq, record_hash(record)))
        try:
            while left:
                left = tail.file.write(left, end - sum(map(len, left)))
            files.fdatasync(tail.file.descriptor)
            self._synced.write(position, writing=False)
        except OSError as error:
            self._fsync_failed = True
            message = "the journal could not be synced: whether the record is in it will be seen when it is reopened"
            raise StoreError(message, kind=ErrorKind.OUTCOME_UNKNOWN, path=tail.file.path, seq=seq) from error
        return position

    def _mark(self, position: Position, *, writing: bool) -> None:
        with translated("cannot write the journal's mark", path=self._folder):
            self._synced.write(position, writing=writing)

    def _sync(self, operation: Callable[[_Subject], None], subject: _Subject) -> None:
        try:
            operation(subject)
        except OSError as error:
            self._fsync_failed = True
            raise files.translate(error, "the journal could not be synced", path=self._folder) from error

    # --- takeover ------------------------------------------------------------------------------------------------

    def _take_over(self) -> _Tail:
        """The tail, as it is known or after mending what others left. Under the lock."""
        self._synced.prepare()
        content = self._synced.content()
        if self._tail is not None and self._tail.content == content:
            return self._tail
        self._drop_tail()
        mark = newest_mark(content)
        if mark is None or not self._synced.trusts(mark):
            position = self._recover(mark)
        elif mark.writing or not self._is_in_order(mark.position):
            position = self._mend(mark.position)
        else:
            return self._hold(mark.position)
        self._mark(position, writing=False)
        return self._hold(position)

    def _hold(self, position: Position) -> _Tail:
        file = self._segments.open(position.segment, writable=True)
        self._tail = _Tail(self._synced.content(), position, file, file.size())
        return self._tail

    def _drop_tail(self) -> None:
        if self._tail is not None:
            self._tail.file.close()
            self._tail = None

    def _is_in_order(self, position: Position) -> bool:
        """Whether the log ends where a trusted, *synced* mark says. It does, unless files were changed by hand."""
        if self._segments.firsts()[-1:] != [position.segment]:
            return False
        with self._segments.open(position.segment) as file:
            return file.ends_in(position) and file.is_blank_at(position.length)

    def _mend(self, position: Position) -> Position:
        """Bring what follows a trusted mark, and may never have been synced, to stable storage; where it ends."""
        begun = self._segment_begun_behind(position)
        self._mark(position, writing=True)
        source, start = (position.segment, position.length) if begun is None else (begun, 0)
        with self._segments.open(source) as file:
            scanner = file.scanner(offset=start, seq=position.head.seq + 1)
            head = scanner.run()
            if scanner.stop() is Stop.TORN:
                self._set_aside(file, scanner.offset, scanner.seq)
            if head is not None:
                self._copy_forward(file, start, scanner.offset, position.head.seq + 1)
        if head is None:
            mended = Position(source, start, position.head)
        else:
            mended = Position(position.head.seq + 1, scanner.offset - start, head)
        self._cut(mended)
        if mended.segment != position.segment:
            self._cut(position)
        self._sync(files.fsync_folder, self._folder)
        return mended

    def _segment_begun_behind(self, position: Position) -> int | None:
        """The segment that a writer or a takeover began and did not live to put into the mark.

        Raises CorruptionError if the log does not even reach to the mark, or has segments that cannot follow it.
        """
        with self._segments.open(position.segment) as file:
            if not file.ends_in(position):
                raise damage("acknowledged records are missing", path=file.path, seq=position.head.seq)
        later = [first for first in self._segments.firsts() if first > position.segment]
        if later not in ([], [position.head.seq + 1]):
            raise damage("a segment does not follow the newest record", path=self._segments.path(later[-1]))
        return later[0] if later else None

    def _copy_forward(self, file: SegmentFile, start: int, end: int, first: int) -> None:
        """Copy frames into a segment of their own, durably. It may replace one whose only content they are."""
        # Whole under its name at once: a takeover that dies leaves the old tail or the new segment to the next one.
        temporary = self._folder / "rewrite"
        temporary.unlink(missing_ok=True)
        self._copy(file, start, end, temporary)
        with translated("cannot begin a segment of the journal", path=self._segments.path(first)):
            temporary.replace(self._segments.path(first))
        self._sync(files.fsync_folder, self._folder)

    def _recover(self, remembered: Mark | None) -> Position:
        """Take what is on disk, without a mark to be trusted, for the log; where it ends."""
        survey = self._survey(remembered)
        position = survey.position
        if not self._segments.firsts():
            self._segments.create(position.segment).close()
        if survey.stop is Stop.TORN:
            with self._segments.open(position.segment) as file:
                self._set_aside(file, position.length, position.head.seq + 1)
            self._cut(position)
        with self._segments.open(position.segment, writable=True) as file:
            self._sync(files.fsync_file, file.descriptor)
        self._sync(files.fsync_folder, self._folder)
        return position

    def _cut(self, position: Position) -> None:
        with self._segments.open(position.segment, writable=True) as file:
            file.cut(position.length)
            self._sync(files.fsync_file, file.descriptor)

    def _set_aside(self, file: SegmentFile, start: int, seq: int) -> None:
        """Copy the torn bytes from ``start`` on, where record ``seq`` was to be, to the quarantine."""
        with translated("cannot make the quarantine", path=self._quarantine):
            files.make_folder(self._quarantine)
        random = self._world.entropy(_RANDOM_BYTES).hex()
        path = self._quarantine / f"journal-{seq:020d}-{self._world.now_ns()}-{random}.torn"
        self._copy(file, start, data_end(file.read_at, start), path)
        self._sync(files.fsync_folder, self._quarantine)

    def _copy(self, file: SegmentFile, start: int, end: int, path: Path) -> None:
        """Copy these bytes of a segment into a new file, and sync it; nothing is left of it if that fails."""
        with translated("cannot copy a part of the journal", path=path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                for block in file.blocks(start, end):
                    files.write_parts(descriptor, [block])
                self._sync(files.fsync_file, descriptor)
            except OSError:
                path.unlink()
                raise
            finally:
                files.close_file(descriptor)
