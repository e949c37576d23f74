"""Survivors: the records of a log that can still be read, over whatever lies between them.

Rule 1: a record is believed for its frame alone (the head's check, the number in it, the record's hash); the name of
its segment only says what ought to be there.
Rule 2: segments are read in the order of the numbers that they begin with. Of two that hold a number, the one that
begins later has it (rule 1 of ``casbank.journal.segment``); what that one lacks is taken from the other.
Rule 3: behind damage the search goes on at the next whole frame whose number can be right there. A record behind a
damaged head is told by its hash.
One record is in memory for each segment that is open: one, or two where a takeover died.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from heapq import heappop, heappush
from typing import NamedTuple

from casbank.errors import CorruptionError
from casbank.journal.frame import Frame, data_end, find_later_frame, read_frame, read_frame_head, read_headless
from casbank.journal.segment import SegmentFile, SegmentFolder


class Segment(NamedTuple):
    """A segment: the first number by its name, and the one that it begins with, as far as a valid head tells."""

    named: int
    begins: int


class Bounds(NamedTuple):
    """The newest record that may be looked at, None for all; and the newest that was acknowledged for certain."""

    limit: int | None
    acknowledged: int


class Place(NamedTuple):
    """Bytes of a segment, up to whatever end if ``end`` is None, and the number of the record that was to be there."""

    segment: int
    start: int
    end: int | None
    seq: int


class Survivor(NamedTuple):
    """A record; from where on, and from which number on, others are missing before it in its segment; its frame's end.

    ``note`` says what is wrong with the frame all the same.
    """

    seq: int
    record: bytes
    missing: Place
    end: int
    note: str


class _Reading:
    """Iterates over the survivors of one segment, ascending. ``torn`` is what follows them at last, if anything."""

    def __init__(self, file: SegmentFile, segment: Segment, bounds: Bounds) -> None:
        self._file = file
        self._bounds = bounds
        self._offset = 0
        self._seq = max(1, segment.begins)
        self._note = "" if segment.begins == segment.named else "the segment is not named by its first record"
        self.torn: Place | None = None

    def __iter__(self) -> Iterator[Survivor]:
        while (found := self._next()) is not None:
            self._offset, self._seq, self._note = found.end, found.seq + 1, ""
            yield found
        end = self._offset if self._is_behind_limit(self._seq) else data_end(self._file.read_at, self._offset)
        if end > self._offset:
            self.torn = Place(self._file.first, self._offset, end, self._seq)

    def _is_behind_limit(self, seq: int) -> bool:
        return self._bounds.limit is not None and seq > self._bounds.limit

    def _next(self) -> Survivor | None:
        frame = self._frame_here()
        start, note = self._offset, self._note
        if frame is None and not self._is_behind_limit(self._seq):
            start, frame, note = self._search()
        if frame is None or self._is_behind_limit(frame.seq):
            return None
        missing = Place(self._file.first, self._offset, start, self._seq)
        return Survivor(frame.seq, frame.record, missing, frame.end, note)

    def _frame_here(self) -> Frame | None:
        while (frame := read_frame(self._file.read_at, self._offset)) is not None and frame.seq < self._seq:
            # A number that was there already.
            self._offset = frame.end
        return frame

    def _search(self) -> tuple[int, Frame | None, str]:
        """The next frame, where it begins, and what is to be noted: there is no valid one here."""
        scanner = self._file.scanner(offset=self._offset, seq=self._seq)
        later = find_later_frame(self._file.read_at, scanner)
        # At the very end it is a dead writer's, unless somebody was told of it.
        if later is not None or self._seq <= self._bounds.acknowledged:
            headless = read_headless(self._file.read_at, scanner, later)
            if headless is not None:
                return self._offset, headless, "the head of the frame is damaged, the record is whole"
        if later is None:
            return self._offset, None, ""
        return later, read_frame(self._file.read_at, later), self._note


class Survivors:
    """Iterates over the survivors of these segments; a number may come again, and is then to be passed over.

    ``torn`` is, at last, what follows the records of the last segment.
    """

    def __init__(self, folder: SegmentFolder, segments: Iterable[Segment], bounds: Bounds) -> None:
        self._folder = folder
        self._bounds = bounds
        # Of two that begin with one number, the one of that name comes later, and goes first.
        self._waiting = deque(sorted(segments, key=lambda segment: (segment.begins, segment.begins == segment.named)))
        self._opened = 0
        # The next survivor of each open segment. What was opened later wins a number; no two have one rank.
        self._next: list[tuple[int, int, Survivor, Iterator[Survivor]]] = []
        self.torn: Place | None = None

    def __iter__(self) -> Iterator[Survivor]:
        self._open()
        while self._next:
            _, rank, survivor, reading = heappop(self._next)
            yield survivor
            self._push(rank, reading)
            self._open()

    def _open(self) -> None:
        """Open the segments that may have the next number."""
        while self._waiting and (not self._next or self._waiting[0].begins <= self._next[0][0]):
            self._opened += 1
            self._push(-self._opened, self._read(self._waiting.popleft(), self._opened))

    def _push(self, rank: int, reading: Iterator[Survivor]) -> None:
        for survivor in reading:
            heappush(self._next, (survivor.seq, rank, survivor, reading))
            break

    def _read(self, segment: Segment, number: int) -> Iterator[Survivor]:
        # Deleted since it was listed: whoever misses its records looks at the list again.
        with suppress(CorruptionError), self._folder.open(segment.named) as file:
            reading = _Reading(file, segment, self._bounds)
            yield from reading
            self.torn = reading.torn if number == self._opened else self.torn


def list_segments(folder: SegmentFolder) -> list[Segment]:
    """All segments, as they are called and as they begin. Raises StoreError."""
    return [Segment(named, _begins(folder, named)) for named in folder.firsts()]


def _begins(folder: SegmentFolder, named: int) -> int:
    with suppress(CorruptionError), folder.open(named) as file:
        head = read_frame_head(file.read_at, 0)
        return named if head is None else head.seq
    return named
