"""Building packs: entries in, one immutable file out.

Rule 1: a pack is built in memory and stored whole; a reader never sees half of one.
Rule 2: a pack that failed is never continued or stored again: what was in it goes into a new one, of a
new id and salt.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blake3 import blake3

from casbank import limits
from casbank.format.compression import compress
from casbank.format.header import HEADER_BYTES, ID_BYTES, SALT_BYTES, Kind
from casbank.format.pack import TRAILER_BYTES, Toc, Trailer, encode_toc, encode_trailer, seal_entry, toc_bytes
from casbank.format.seal import TAG_BYTES, Sealing
from casbank.index.apply import Contents
from casbank.model import Buffer, ChunkRow, EntryRow, EntryType, PackInfo
from casbank.world import World


class Group(NamedTuple):
    """Plain chunks compressed together, not sealed yet: codec, payload, plain length, and each chunk's id and length
    in order."""

    type: EntryType
    codec: int
    payload: Buffer
    raw: int
    chunks: list[tuple[bytes, int]]


class FinishedPack(NamedTuple):
    """A whole pack: what the journal will say of it, what the index needs, and its bytes in parts."""

    info: PackInfo
    contents: Contents
    parts: Sequence[Buffer]


def make_group(kind: EntryType, plain: Buffer, chunks: list[tuple[bytes, int]], level: int | None) -> Group:
    """Compress chunks that lie one behind the other in ``plain``."""
    codec, payload = compress(plain, level)
    return Group(kind, codec, payload, len(plain), chunks)


class PackBuilder:
    """One pack in the making. Groups are taken in by the writer's thread; :meth:`finish`, which does the hashing and
    sealing, may run in another one."""

    def __init__(self, kind: Kind, sealing: Sealing, world: World) -> None:
        self._id = world.entropy(ID_BYTES)
        self._seal = sealing.create(kind, self._id, world.entropy(SALT_BYTES))
        self._kind = kind
        self._groups: list[Group] = []
        self._chunks = 0
        self._end = HEADER_BYTES

    @property
    def is_full(self) -> bool:
        """Whether it is time for a new one."""
        return (
            self._end >= limits.PACK_BYTES_TARGET
            or self._chunks >= limits.PACK_CHUNKS_TARGET
            or len(self._groups) >= limits.PACK_ENTRIES_MAX
        )

    def add(self, group: Group) -> None:
        """Take a group in as the next entry."""
        self._groups.append(group)
        self._chunks += len(group.chunks)
        self._end += len(group.payload) + TAG_BYTES

    def finish(self) -> FinishedPack:
        """Seal everything; the builder is of no further use, whether this succeeds or fails."""
        rows = [_row(group) for group in self._groups]
        parts: list[Buffer] = [self._seal.header_bytes]
        for number, (row, group) in enumerate(zip(rows, self._groups, strict=True)):
            parts += seal_entry(self._seal, number, row, group.payload)
        toc = Toc(rows, [chunk for number, group in enumerate(self._groups) for chunk in _chunk_rows(number, group)])
        parts += encode_toc(self._seal, toc)
        hasher = blake3()
        for part in parts:
            hasher.update(part)
        length = toc_bytes(len(rows), len(toc.chunks))
        trailer = Trailer(self._end, length, len(rows), 0, self._id, hasher.digest())
        parts.append(encode_trailer(self._seal, trailer))
        total = self._end + 2 * length + TRAILER_BYTES
        info = PackInfo(self._id, self._kind, total, trailer.hash, len(rows), sum(row.raw for row in rows))
        return FinishedPack(info, Contents(self._seal.header_bytes, toc), parts)


def _row(group: Group) -> EntryRow:
    return EntryRow(group.type, group.codec, len(group.payload) + TAG_BYTES, group.raw, len(group.chunks))


def _chunk_rows(entry: int, group: Group) -> Iterator[ChunkRow]:
    start = 0
    for chunk_id, raw in group.chunks:
        yield ChunkRow(chunk_id, entry, start, raw)
        start += raw
