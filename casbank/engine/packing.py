"""Building packs: entries in, one immutable file out.

Rule 1: a pack is built in one reused buffer and stored whole; a reader never sees half of one.
Rule 2: a pack that failed is never continued or stored again: what was in it goes into a new one, of a
new id and salt.
"""

from collections.abc import Sequence
from typing import NamedTuple

from blake3 import blake3

from casbank import limits
from casbank.engine.salt import fresh_salt
from casbank.format.compression import compress
from casbank.format.header import HEADER_BYTES, ID_BYTES, Kind
from casbank.format.pack import TRAILER_BYTES, Toc, Trailer, encode_toc, encode_trailer, seal_entry, toc_bytes
from casbank.format.seal import TAG_BYTES, Sealing
from casbank.index.apply import Contents
from casbank.model import Buffer, ChunkRow, EntryRow, EntryType, PackInfo
from casbank.world import World

# A pack is closed when it has reached its target, so the last entry may lie wholly behind that.
PACK_BUFFER_BYTES = limits.PACK_BYTES_TARGET + limits.ENTRY_STORED_BYTES_MAX


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
    """One pack in the making, in a buffer of at least ``PACK_BUFFER_BYTES``.

    Groups are taken in by the writer's thread; :meth:`finish`, which does the sealing and hashing, may run in another.
    """

    def __init__(self, kind: Kind, sealing: Sealing, world: World, buffer: bytearray) -> None:
        self._id = world.entropy(ID_BYTES)
        self._seal = sealing.create(kind, self._id, fresh_salt(world))
        self._kind = kind
        self._rows: list[EntryRow] = []
        self._chunks: list[ChunkRow] = []
        self.buffer = buffer
        self._view = memoryview(buffer)
        self._view[:HEADER_BYTES] = self._seal.header_bytes
        self._end = HEADER_BYTES

    @property
    def is_full(self) -> bool:
        """Whether it is time for a new one."""
        return (
            self._end >= limits.PACK_BYTES_TARGET
            or len(self._chunks) >= limits.PACK_CHUNKS_TARGET
            or len(self._rows) >= limits.PACK_ENTRIES_MAX
        )

    def add(self, group: Group) -> None:
        """Copy a group in as the next entry, with room for its tag."""
        number, length = len(self._rows), len(group.payload)
        self._view[self._end : self._end + length] = group.payload
        self._rows.append(EntryRow(group.type, group.codec, length + TAG_BYTES, group.raw, len(group.chunks)))
        self._end += length + TAG_BYTES
        start = 0
        for chunk_id, raw in group.chunks:
            self._chunks.append(ChunkRow(chunk_id, number, start, raw))
            start += raw

    def finish(self) -> FinishedPack:
        """Seal everything where it stands; the builder is of no further use, whether this succeeds or fails."""
        at = HEADER_BYTES
        for number, row in enumerate(self._rows):
            split, end = at + row.stored - TAG_BYTES, at + row.stored
            self._view[at:split], self._view[split:end] = seal_entry(self._seal, number, row, self._view[at:split])
            at = end
        toc = Toc(self._rows, self._chunks)
        parts: list[Buffer] = [self._view[:at], *encode_toc(self._seal, toc)]
        hasher = blake3()
        for part in parts:
            hasher.update(part)
        length = toc_bytes(len(toc.entries), len(toc.chunks))
        trailer = Trailer(at, length, len(toc.entries), 0, self._id, hasher.digest())
        parts.append(encode_trailer(self._seal, trailer))
        total = at + 2 * length + TRAILER_BYTES
        raw = sum(row.raw for row in toc.entries)
        info = PackInfo(self._id, self._kind, total, trailer.hash, len(toc.entries), raw)
        return FinishedPack(info, Contents(self._seal.header_bytes, toc), parts)
