"""Chunks that are fetched together.

Rule: a range costs one read and bounded memory, whatever it holds: ``limits.COALESCE_BYTES_MAX`` on disk and opened.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from casbank import limits
from casbank.engine.packs import WantedEntry
from casbank.index.tables import PackRow
from casbank.model import Location


class Wanted(NamedTuple):
    """One chunk to fetch, and where it is."""

    id: bytes
    place: Location
    pack: PackRow


@dataclass(slots=True)
class Range:
    """Neighbouring entries of one pack, fetched with one read; the chunks wanted of them, in the object's order."""

    pack: PackRow
    entries: list[WantedEntry] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    raw: int = 0

    @classmethod
    def of(cls, chunk: Wanted) -> "Range":
        """One chunk alone."""
        found = cls(chunk.pack)
        found.add(chunk)
        return found

    def takes(self, chunk: Wanted) -> bool:
        """Whether this chunk can be had with the same read."""
        place, last = chunk.place, self.entries[-1]
        if chunk.pack.info.id != self.pack.info.id:
            return False
        if place.entry == last.number:
            return True
        end = last.offset + last.row.stored
        gap = place.offset - end
        span = place.offset + place.row.stored - self.entries[0].offset
        near = 0 <= gap <= limits.COALESCE_GAP_BYTES
        return near and max(span, self.raw + place.row.raw) <= limits.COALESCE_BYTES_MAX

    def add(self, chunk: Wanted) -> None:
        place = chunk.place
        if not self.entries or self.entries[-1].number != place.entry:
            self.entries.append(WantedEntry(place.entry, place.offset, place.row))
            self.raw += place.row.raw
        self.wanted.append(chunk)


def grouped(chunks: Iterable[Wanted]) -> Iterator[Range]:
    """Chunks in the object's order as ranges; those that lie together are in one."""
    current: Range | None = None
    for chunk in chunks:
        if current is not None and current.takes(chunk):
            current.add(chunk)
            continue
        if current is not None:
            yield current
        current = Range.of(chunk)
    if current is not None:
        yield current
