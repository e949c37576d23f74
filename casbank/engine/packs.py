"""Reading published packs: their tables, and ranges of their entries.

A pack is found by its id alone; what it must be (length, hash) is the journal's word, not the pack's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from casbank.errors import CorruptionError, ErrorKind, NotFoundError
from casbank.format.header import HEADER_BYTES, Kind, decode_header, encode_header
from casbank.format.pack import (
    TRAILER_BYTES,
    decode_toc,
    decode_trailer,
    open_entry,
    pack_name,
    read_clear_trailer,
)
from casbank.format.seal import Sealing
from casbank.index.apply import Contents
from casbank.index.tables import PackRow
from casbank.model import Buffer, EntryRow, PackInfo
from casbank.storage.base import Store

# Trailer and both tables of most packs: one read. 64 KiB average chunks make tables of some 60 KiB.
_TAIL_BYTES = 128 * 2**10


class WantedEntry(NamedTuple):
    """One entry to fetch: its number, its offset in the pack, its row."""

    number: int
    offset: int
    row: EntryRow


@dataclass(frozen=True, slots=True)
class PackReader:
    """Opens what is in packs; no state of its own, for any thread."""

    store: Store
    sealing: Sealing

    def contents(self, info: PackInfo) -> Contents:
        """Header and table of contents of a published pack. CorruptionError if it is missing or damaged."""
        name = pack_name(info.id)
        try:
            header = self.store.get(name, 0, HEADER_BYTES)
            tail = self.store.get(name, max(0, info.length - _TAIL_BYTES), _TAIL_BYTES)
            seal = self.sealing.open(header, Kind(info.kind), info.id)
            trailer = decode_trailer(seal, tail[-TRAILER_BYTES:], info.length)
            if (trailer.hash, trailer.entries) != (info.hash, info.entries):
                raise CorruptionError("the pack is not the one that the journal names", kind=ErrorKind.PACK)
            start, length = trailer.toc_offset, 2 * trailer.toc_length
            skipped = start - max(0, info.length - _TAIL_BYTES)
            copies = tail[skipped : skipped + length] if skipped >= 0 else self.store.get(name, start, length)
            return Contents(header, decode_toc(seal, trailer, copies))
        except NotFoundError as error:
            raise CorruptionError("a live pack is missing", kind=ErrorKind.PACK_MISSING, pack=info.id) from error
        except CorruptionError as error:
            raise CorruptionError(error.message, kind=error.kind, pack=info.id) from error

    def found(self, pack_id: bytes) -> PackInfo:
        """What the journal would say of a pack, by the pack's own word. Raises NotFoundError, CorruptionError."""
        name = pack_name(pack_id)
        length = self.store.size(name)
        header = decode_header(self.store.get(name, 0, HEADER_BYTES))
        _, trailer_hash = read_clear_trailer(self.store.get(name, max(0, length - TRAILER_BYTES)))
        seal = self.sealing.open(encode_header(header), header.kind, pack_id)
        trailer = decode_trailer(seal, self.store.get(name, length - TRAILER_BYTES), length)
        info = PackInfo(pack_id, header.kind, length, trailer_hash, trailer.entries, 0)
        return info._replace(raw=sum(row.raw for row in self.contents(info).toc.entries))

    def entries(self, pack: PackRow, wanted: Sequence[WantedEntry]) -> list[Buffer]:
        """Plain bytes of entries that lie close together, in ascending order: one ranged read.

        Their tags are checked; chunk ids are the caller's to compare. Raises NotFoundError if the pack is not there,
        CorruptionError if an entry is damaged.
        """
        start = wanted[0].offset
        end = wanted[-1].offset + wanted[-1].row.stored
        data = memoryview(self.store.get(pack_name(pack.info.id), start, end - start))
        seal = self.sealing.open(pack.header, Kind(pack.info.kind), pack.info.id)
        opened = []
        for entry in wanted:
            at = entry.offset - start
            try:
                opened.append(open_entry(seal, entry.number, entry.row, data[at : at + entry.row.stored]))
            except CorruptionError as error:
                raise CorruptionError(
                    error.message, kind=error.kind, pack=pack.info.id, entry=entry.number, offset=entry.offset
                ) from error
        return opened
