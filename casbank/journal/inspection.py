"""Inspection: all of the local log that can still be read, and what is missing, whatever its bytes are.

Rule 1: a number that no survivor has is damage, if the mark, a later frame or the name of a later segment proves that
it was acknowledged. What is missing before the first segment was forgotten.
Rule 2: torn bytes behind all that was acknowledged are the tail of a dead writer.
Rule 3: nothing behind a trusted mark is looked at: somebody may be writing there. Without one, what was met counts
only if the mark is still the same; and nothing is missing if a segment was meanwhile deleted. Else the log is looked
at again, from the number on that is next.
Rule 4: told of is also a segment that hides nothing, but stands in the way: one that no writer goes on behind, and one
in which a reader looks in vain for records that another segment has.
Nothing is locked or changed.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from casbank.format.record import record_hash
from casbank.journal.base import SEQ_MAX, JournalDamage, JournalEntry
from casbank.journal.segment import SegmentFolder
from casbank.journal.survivors import Bounds, Place, Segment, Survivor, Survivors, list_segments
from casbank.journal.synced import Mark, SyncedFile, newest_mark

Item: TypeAlias = JournalEntry | JournalDamage

# Times that the names are listed until no writer came between; each list takes less time than a sync.
_LISTINGS_MAX = 100


class _View(NamedTuple):
    """The segments, as they were listed, and the mark, as it was before that: ``content`` is its file's."""

    content: bytes
    mark: Mark | None
    segments: list[Segment]
    bounds: Bounds


class Inspection:
    """One reading of a log, whose mark is ``synced``: iterate over it once."""

    def __init__(self, folder: SegmentFolder, synced: SyncedFile) -> None:
        self._folder = folder
        self._synced = synced
        # All that was said is about numbers before this one.
        self._seq = 1
        self._found_any = False
        # Segments, by their names, of which it was told that they are wrong.
        self._told: set[int] = set()
        # Where the last record ended.
        self._behind: Place | None = None

    def __iter__(self) -> Iterator[Item]:
        is_done = False
        while not is_done:
            view = self._look()
            self._pass_over_forgotten(view)
            is_done = True
            for item in self._items(view):
                if self._is_outdated(view, item):
                    is_done = False
                    break
                yield self._noted(item)

    def _look(self) -> _View:
        # In this order: every segment that the mark is about is in the list, or was forgotten.
        content = self._synced.content()
        mark = newest_mark(content)
        segments = list_segments(self._folder)
        remembered = 0 if mark is None else mark.position.head.seq
        if mark is not None and self._synced.trusts(mark):
            return _View(content, mark, segments, Bounds(remembered, remembered))
        # A segment is begun when the record before it is durable.
        begun = (segment.begins - 1 for segment in segments if segment.begins <= SEQ_MAX)
        acknowledged = max([remembered, *begun])
        return _View(content, mark, segments, Bounds(None, acknowledged))

    def _pass_over_forgotten(self, view: _View) -> None:
        first = min((min(segment) for segment in view.segments), default=1)
        self._seq = max(self._seq, first)

    def _is_outdated(self, view: _View, item: Item) -> bool:
        """Whether the item may come of what a writer did meanwhile."""
        if view.bounds.limit is None and self._synced.content() != view.content:
            return True
        if isinstance(item, JournalEntry):
            return False
        listed = {segment.named for segment in view.segments}
        if listed and view.bounds.limit is not None and view.bounds.limit < min(listed):
            # All that the mark was about may have been forgotten before the list was made.
            return self._synced.content() != view.content
        return not listed <= set(self._folder.firsts())

    def _noted(self, item: Item) -> Item:
        if isinstance(item, JournalEntry):
            self._seq = item.seq + 1
            self._found_any = True
        elif item.last_seq is not None:
            self._seq = item.last_seq + 1
        return item

    def _items(self, view: _View) -> Iterator[Item]:
        survivors = Survivors(self._folder, view.segments, view.bounds)
        for survivor in survivors:
            if survivor.seq >= self._seq:
                yield from self._missing_before(view, survivor)
                yield from self._wrong_at(view, survivor)
                yield JournalEntry(survivor.seq, survivor.record)
                self._behind = survivor.missing._replace(start=survivor.end)
        yield from self._missing_at_the_end(view, survivors.torn)
        yield from self._refused(view)

    def _wrong_at(self, view: _View, survivor: Survivor) -> Iterator[JournalDamage]:
        """What is wrong with a record that is there, and with the segment where it was to be."""
        if note := survivor.note or _compared(survivor, view.mark):
            self._told.add(survivor.missing.segment)
            yield self._harm(_text(survivor.missing._replace(end=survivor.end)), survivor.seq - 1, note)
        found, segments = survivor.missing.segment, view.segments
        expected = segments[max(1, bisect_right(segments, survivor.seq, key=lambda segment: segment.named)) - 1].named
        if expected == found:
            return
        # Those of a wrong name are told of, or will be.
        wrong = {segment.named for segment in segments if segment.named != segment.begins} | self._told
        if not wrong & {expected, found}:
            yield self._in_the_way(expected, "the segment does not hold its records; another one does")

    def _refused(self, view: _View) -> Iterator[JournalDamage]:
        """Segments that no writer goes on behind."""
        if view.bounds.limit is None:
            # The others are called for as records that are missing before them.
            refused = [segment.named for segment in view.segments if segment.begins > SEQ_MAX]
        else:
            refused = self._refused_by_mark()
        for named in refused:
            if named not in self._told:
                yield self._in_the_way(named, "the segment does not follow the newest record")

    def _refused_by_mark(self) -> list[int]:
        for _ in range(_LISTINGS_MAX):
            content = self._synced.content()
            mark = newest_mark(content)
            firsts = self._folder.firsts()
            if mark is None or not self._synced.trusts(mark):
                return []
            following = mark.position.head.seq + 1
            if self._synced.content() == content:
                return [first for first in firsts if first > mark.position.segment and first != following]
        return []

    def _missing_before(self, view: _View, survivor: Survivor) -> Iterator[JournalDamage]:
        """What is missing from the segments before the survivor's, then what is missing from its own."""
        elsewhere = min(survivor.missing.seq, survivor.seq) - 1
        if self._seq <= elsewhere:
            yield self._harm(self._text_of_next(view), elsewhere, "the records are missing")
        if self._seq < survivor.seq:
            yield self._harm(_text(survivor.missing), survivor.seq - 1, "these bytes are no whole records")

    def _missing_at_the_end(self, view: _View, torn: Place | None) -> Iterator[JournalDamage]:
        acknowledged = view.bounds.acknowledged
        # The newest record is never forgotten.
        self._seq = self._seq if self._found_any else min(self._seq, max(1, acknowledged))
        if self._seq <= acknowledged:
            yield self._harm(self._text_of_next(view), acknowledged, "acknowledged records are missing")
        if torn is not None and torn.seq == self._seq and view.bounds.limit is None:
            yield JournalDamage(_text(torn), self._seq, None, "the remains of a writer that died", True)

    def _harm(self, place: str, last_seq: int, reason: str) -> JournalDamage:
        return JournalDamage(place, self._seq, last_seq, reason, False)

    def _in_the_way(self, named: int, reason: str) -> JournalDamage:
        self._told.add(named)
        return self._harm(_text(Place(named, 0, None, self._seq)), self._seq - 1, reason)

    def _text_of_next(self, view: _View) -> str:
        """Where the next record ought to be: in the last segment that is named by it or a number before."""
        named = max((segment.named for segment in view.segments if segment.named <= self._seq), default=self._seq)
        behind = self._behind
        start = behind.start if behind is not None and behind.segment == named else 0
        return _text(Place(named, start, None, self._seq))


def _compared(survivor: Survivor, mark: Mark | None) -> str:
    """What is to be noted if the mark remembers another record under this number."""
    if (
        mark is None
        or mark.position.head.seq != survivor.seq
        or mark.position.head.hash == record_hash(survivor.record)
    ):
        return ""
    return "the mark remembers another record"


def _text(place: Place) -> str:
    end = "on" if place.end is None else f"to {place.end}"
    return f"{place.segment:020d}.log, from byte {place.start} {end}"
