"""What is in a pack that is to be mended: by its own table, or by what the index remembers.

Rule: the index may lack rows, and its word frees nothing (collector, rule T): what it says of an entry counts as all of
it only if that adds up.
"""

from collections.abc import Sequence
from typing import NamedTuple

from casbank.engine.packs import WantedEntry
from casbank.format.pack import entry_offsets
from casbank.index.apply import Contents
from casbank.index.tables import PackRow
from casbank.index.transaction import Snapshot
from casbank.model import ChunkRow, PackInfo

UNNAMED = b""
"""The id of a chunk whose row the index lost: it is what the chunk's bytes say."""


class Entry(NamedTuple):
    """One entry, and its chunks. ``is_complete``: these are all."""

    wanted: WantedEntry
    chunks: list[ChunkRow]
    is_complete: bool


class Table(NamedTuple):
    """What is known of a pack's content: its row (whose header opens it), and its entries by number."""

    row: PackRow
    entries: dict[int, Entry]
    is_complete: bool


def own_table(info: PackInfo, contents: Contents) -> Table:
    """By the pack itself."""
    offsets = entry_offsets(contents.toc.entries)
    entries = {
        number: Entry(WantedEntry(number, offsets[number], row), [], is_complete=True)
        for number, row in enumerate(contents.toc.entries)
    }
    for chunk in contents.toc.chunks:
        entries[chunk.entry].chunks.append(chunk)
    return Table(PackRow(info, len(contents.toc.chunks), contents.header), entries, is_complete=True)


def remembered_table(snapshot: Snapshot, number: int) -> Table | None:
    """By the index; None if it knows of nothing in the pack."""
    row = snapshot.pack(number)
    places = sorted(snapshot.chunks_of(number), key=lambda item: (item[1].entry, item[1].start))
    if row is None or not row.chunks or not places:
        return None
    wanted: dict[int, WantedEntry] = {}
    chunks: dict[int, list[ChunkRow]] = {}
    for chunk_id, place in places:
        wanted[place.entry] = WantedEntry(place.entry, place.offset, place.row)
        chunks.setdefault(place.entry, []).append(ChunkRow(chunk_id, place.entry, place.start, place.raw))
    entries = {entry: _remembered_entry(wanted[entry], chunks[entry]) for entry in wanted}
    return Table(row, entries, len(places) == row.chunks)


def _remembered_entry(wanted: WantedEntry, chunks: list[ChunkRow]) -> Entry:
    """An entry whose missing rows are made up for, if nobody can doubt where its chunks begin."""
    whole = _without_gaps(wanted, chunks)
    return Entry(wanted, whole, True) if len(whole) == wanted.row.chunks else Entry(wanted, chunks, False)


def _without_gaps(wanted: WantedEntry, chunks: Sequence[ChunkRow]) -> list[ChunkRow]:
    """The chunks of an entry by their places, each gap between them taken for one whose row is missing; none if they
    overlap."""
    whole: list[ChunkRow] = []
    at = 0
    for chunk in [*chunks, ChunkRow(UNNAMED, wanted.number, wanted.row.raw, 0)]:
        if chunk.start < at:
            return []
        if chunk.start > at:
            whole.append(ChunkRow(UNNAMED, wanted.number, at, chunk.start - at))
        whole.append(chunk)
        at = chunk.start + chunk.raw
    # But for the end.
    return whole[:-1]
