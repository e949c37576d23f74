"""Packs: sealed entries, their table of contents twice, a trailer (format, section 4).

    header 128 | entry 0 | entry 1 | ... | TOC | TOC again | padding | trailer 128

Rule 1: the TOC stands twice, because a pack whose TOC is lost is a lost pack.
Rule 2: the trailer's whole-file hash is unkeyed, so that anyone can scrub; authenticity comes from the journal.
Rule 3: a table is believed only when it adds up: to the file's length, to each entry's length, to the trailer.
"""

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from blake3 import blake3

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.compression import decompress
from casbank.format.header import HEADER_BYTES, Kind
from casbank.format.seal import TAG_BYTES, FileSeal, Lane
from casbank.model import Buffer, ChunkRow, EntryRow, EntryType

TRAILER_BYTES = 128
TRAILER_MAGIC = b"CASTRLR1"

_ENTRY = struct.Struct("<BBHIII")
_CHUNK = struct.Struct("<32sIII")
_LOCATOR = struct.Struct("<QQIIQ")
_TRAILER = struct.Struct("<8s48s16s32s16s")
_CHECK_BYTES = 8
_CORRUPT = ErrorKind.PACK
_TYPES = frozenset(EntryType)


class Toc(NamedTuple):
    """A pack's table of contents: entries in file order, chunks in the order of their entries."""

    entries: list[EntryRow]
    chunks: list[ChunkRow]


class Trailer(NamedTuple):
    """The end of a pack. ``toc_length`` is one copy's; the second follows the first."""

    toc_offset: int
    toc_length: int
    entries: int
    padding: int
    pack_id: bytes
    hash: bytes


def encode_entry_row(row: EntryRow) -> bytes:
    """The 16 bytes of an entry's row, which its tag covers too."""
    return _ENTRY.pack(row.type, row.codec, 0, row.stored, row.raw, row.chunks)


def seal_entry(seal: FileSeal, number: int, row: EntryRow, payload: Buffer) -> tuple[Buffer, bytes]:
    """The two parts of entry ``number``; ``row.stored`` must be the payload's length and the tag's."""
    return seal.seal(Lane.ENTRY, number, encode_entry_row(row), payload)


def open_entry(seal: FileSeal, number: int, row: EntryRow, message: Buffer) -> Buffer:
    """Plain bytes of an entry: tag checked, decompressed, as long as its row says.

    The ids of the chunks in it are the caller's to compare. Raises CorruptionError or UnsupportedFormatError.
    """
    _check_entry(row)
    if len(message) != row.stored:
        raise CorruptionError("entry is cut short", kind=ErrorKind.ENTRY_TAG, entry=number)
    payload = seal.open(Lane.ENTRY, number, encode_entry_row(row), message)
    return decompress(row.codec, payload, row.raw, _CORRUPT)


def encode_toc(seal: FileSeal, toc: Toc) -> list[Buffer]:
    """Both sealed copies of the table, as parts to write."""
    rows = [encode_entry_row(row) for row in toc.entries]
    rows += [_CHUNK.pack(*row) for row in toc.chunks]
    plain = b"".join(rows)
    return [*seal.seal(Lane.TOC, 0, b"", plain), *seal.seal(Lane.TOC, 1, b"", plain)]


def toc_bytes(entries: int, chunks: int) -> int:
    """Length of one sealed copy of a table."""
    return entries * _ENTRY.size + chunks * _CHUNK.size + TAG_BYTES


def decode_toc(seal: FileSeal, trailer: Trailer, copies: Buffer) -> Toc:
    """The table from its two sealed copies; the second is opened only if the first is damaged."""
    length = trailer.toc_length
    for copy in range(2):
        try:
            plain = seal.open(Lane.TOC, copy, b"", copies[copy * length : (copy + 1) * length])
        except CorruptionError:
            continue
        return _parse_toc(plain, trailer, seal.header.kind)
    raise CorruptionError("both tables of contents are damaged", kind=_CORRUPT, pack=trailer.pack_id)


def whole_tocs(seal: FileSeal, trailer: Trailer, copies: Buffer) -> list[bool]:
    """For each of the two sealed copies of a table, whether every bit is as sealed."""
    return [_opens(seal, copy, copies[copy * trailer.toc_length :][: trailer.toc_length]) for copy in range(2)]


def _opens(seal: FileSeal, copy: int, message: Buffer) -> bool:
    try:
        seal.open(Lane.TOC, copy, b"", message)
    except CorruptionError:
        return False
    return True


def _parse_toc(plain: Buffer, trailer: Trailer, kind: Kind) -> Toc:
    split = trailer.entries * _ENTRY.size
    if len(plain) < split or (len(plain) - split) % _CHUNK.size:
        raise CorruptionError("table of contents has a wrong length", kind=_CORRUPT)
    entries = []
    for entry_type, codec, flags, stored, raw, chunks in _ENTRY.iter_unpack(memoryview(plain)[:split]):
        if flags:
            raise UnsupportedFormatError(f"unknown flags {flags:#x} on an entry")
        entries.append(EntryRow(entry_type, codec, stored, raw, chunks))
    toc = Toc(entries, [ChunkRow(*row) for row in _CHUNK.iter_unpack(memoryview(plain)[split:])])
    _check_toc(toc, trailer)
    if any((row.type == EntryType.CHUNKS) != (kind is Kind.DATA_PACK) for row in toc.entries):
        raise CorruptionError("a pack mixes content and manifests", kind=_CORRUPT)
    return toc


def _check_toc(toc: Toc, trailer: Trailer) -> None:
    for row in toc.entries:
        _check_entry(row)
    if HEADER_BYTES + sum(row.stored for row in toc.entries) != trailer.toc_offset:
        raise CorruptionError("entries do not add up to the table's offset", kind=_CORRUPT)
    counts = [0] * len(toc.entries)
    for chunk in toc.chunks:
        if chunk.entry >= len(counts) or not chunk.raw or chunk.start + chunk.raw > toc.entries[chunk.entry].raw:
            raise CorruptionError("a chunk lies outside its entry", kind=_CORRUPT)
        counts[chunk.entry] += 1
    if counts != [row.chunks for row in toc.entries]:
        raise CorruptionError("an entry has another number of chunks than it says", kind=_CORRUPT)
    if any(earlier.entry > later.entry for earlier, later in pairwise(toc.chunks)):
        raise CorruptionError("chunks are not in the order of their entries", kind=_CORRUPT)


def _check_entry(row: EntryRow) -> None:
    if row.type not in _TYPES:
        raise UnsupportedFormatError(f"unknown entry type {row.type}")
    if not TAG_BYTES < row.stored <= limits.ENTRY_STORED_BYTES_MAX or not 0 < row.raw <= limits.ENTRY_RAW_BYTES_MAX:
        raise CorruptionError("an entry's length is out of range", kind=_CORRUPT)
    if row.chunks > limits.GROUP_CHUNKS_MAX:
        raise CorruptionError("an entry has too many chunks", kind=_CORRUPT)


def encode_trailer(seal: FileSeal, trailer: Trailer) -> bytes:
    """The last 128 bytes of a pack."""
    locator = _LOCATOR.pack(trailer.toc_offset, trailer.toc_length, trailer.entries, 0, trailer.padding)
    sealed = b"".join(seal.seal(Lane.TRAILER, 0, b"", locator))
    body = _TRAILER.pack(TRAILER_MAGIC, sealed, trailer.pack_id, trailer.hash, bytes(16))
    return body + blake3(body).digest(_CHECK_BYTES)


def decode_trailer(seal: FileSeal, data: Buffer, pack_length: int) -> Trailer:
    """Trailer from the last 128 bytes of a pack of ``pack_length`` bytes; its table lies within the pack."""
    sealed, pack_id, whole = _split_trailer(data)
    if pack_id != seal.header.file_id:
        raise CorruptionError("pack trailer is another file's", kind=_CORRUPT)
    offset, length, entries, flags, padding = _LOCATOR.unpack(seal.open(Lane.TRAILER, 0, b"", sealed))
    if flags:
        raise UnsupportedFormatError(f"unknown flags {flags:#x} in a pack trailer")
    if entries > limits.PACK_ENTRIES_MAX or length > toc_bytes(entries, limits.PACK_CHUNKS_MAX):
        raise CorruptionError("table of contents is too large", kind=_CORRUPT)
    if offset < HEADER_BYTES or offset + 2 * length + padding + TRAILER_BYTES != pack_length:
        raise CorruptionError("pack has another length than its trailer says", kind=_CORRUPT)
    return Trailer(offset, length, entries, padding, pack_id, whole)


def read_clear_trailer(data: Buffer) -> tuple[bytes, bytes]:
    """What a trailer says to everybody: the pack's id, and the hash of all bytes before the trailer."""
    _, pack_id, whole = _split_trailer(data)
    return pack_id, whole


def _split_trailer(data: Buffer) -> tuple[bytes, bytes, bytes]:
    tail = bytes(data)
    if len(tail) != TRAILER_BYTES or blake3(tail[:-_CHECK_BYTES]).digest(_CHECK_BYTES) != tail[-_CHECK_BYTES:]:
        raise CorruptionError("pack trailer fails its checksum", kind=_CORRUPT)
    magic, sealed, pack_id, whole, _ = _TRAILER.unpack(tail[:-_CHECK_BYTES])
    if magic != TRAILER_MAGIC:
        raise CorruptionError("pack trailer is another file's", kind=_CORRUPT)
    return sealed, pack_id, whole


def pack_name(pack_id: bytes) -> str:
    """Where a pack lies in a local store."""
    return f"packs/{pack_id.hex()[:2]}/{pack_id.hex()}"


def entry_offsets(entries: Sequence[EntryRow]) -> list[int]:
    """Offset of each entry from the start of the pack."""
    offsets, at = [], HEADER_BYTES
    for row in entries:
        offsets.append(at)
        at += row.stored
    return offsets
