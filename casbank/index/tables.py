"""Rows of the index's tables, to bytes and back (format, section 12).

Rule: every value ends in a CRC-32 that also covers its key. LMDB has no checksums: single flipped bits in its file
gave wrong or missing rows without an error.
"""

import struct
from typing import NamedTuple
from zlib import crc32

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind
from casbank.model import EntryRow, Location, PackInfo

_CRC = struct.Struct(">I")
# Big-endian and the pack's number first: of a chunk's locations LMDB then gives the oldest pack's first.
_LOCATION = struct.Struct(">IIIBBIIHII")
_PACK = struct.Struct(">16sBQ32sIQI128s")
_NUMBER = struct.Struct(">I")
_STATE = struct.Struct(">Q32sIQQQQQ")
_NAME_ROW = struct.Struct(">HQI")
_TOMBSTONE_KEY = struct.Struct(">QI")
_TOMBSTONE = struct.Struct(">HQQ")
_LONG = limits.NAME_KEY_BYTES_MAX


class PackRow(NamedTuple):
    """What the index keeps of a pack: the journal's words, its number of chunks, and its header, so that one entry can
    be opened with one ranged read."""

    info: PackInfo
    chunks: int
    header: bytes


class State(NamedTuple):
    """Which record the tables stand on, and what is counted on the way.

    ``journal_bytes`` is the length of all records up to ``seq``; the rest counts objects, the sum of their sizes, and
    the plain and stored bytes of live packs.
    """

    seq: int
    hash: bytes
    next_pack: int
    objects: int
    logical_bytes: int
    unique_bytes: int
    stored_bytes: int
    journal_bytes: int


class NameRow(NamedTuple):
    """One version of an object: its name in UTF-8, the record that put it, its descriptor's bytes."""

    name: bytes
    version: int
    descriptor: bytes


class Tombstone(NamedTuple):
    """A version that was removed or replaced: by which record, as its how-manieth, and when."""

    removed_seq: int
    ordinal: int
    name: bytes
    version: int
    descriptor: bytes
    removed_ns: int


def sealed(key: bytes, body: bytes) -> bytes:
    """The value for ``body`` under ``key``."""
    return body + _CRC.pack(crc32(body, crc32(key)))


def unsealed(key: bytes, value: bytes) -> bytes:
    """The body of a value. CorruptionError(kind=INDEX_VALUE) if it is not as it was written under this key."""
    body = value[:-4]
    if len(value) < 4 or _CRC.pack(crc32(body, crc32(key))) != value[-4:]:
        raise CorruptionError(
            "an index value fails its checksum; run 'casbank index rebuild'", kind=ErrorKind.INDEX_VALUE, key=key
        )
    return body


def encode_location(chunk_id: bytes, place: Location) -> bytes:
    row = place.row
    assert row.chunks <= limits.GROUP_CHUNKS_MAX
    body = _LOCATION.pack(
        place.pack_number,
        place.offset,
        place.entry,
        row.type,
        row.codec,
        row.stored,
        row.raw,
        row.chunks,
        place.start,
        place.raw,
    )
    return sealed(chunk_id, body)


def decode_location(chunk_id: bytes, value: bytes) -> Location:
    pack, offset, entry, kind, codec, stored, raw, chunks, start, length = _LOCATION.unpack(unsealed(chunk_id, value))
    return Location(pack, offset, entry, EntryRow(kind, codec, stored, raw, chunks), start, length)


def number_key(number: int) -> bytes:
    return _NUMBER.pack(number)


def encode_pack(number: int, row: PackRow) -> bytes:
    info = row.info
    body = _PACK.pack(info.id, info.kind, info.length, info.hash, info.entries, info.raw, row.chunks, row.header)
    return sealed(number_key(number), body)


def decode_pack(number: int, value: bytes) -> PackRow:
    *info, chunks, header = _PACK.unpack(unsealed(number_key(number), value))
    return PackRow(PackInfo(*info), chunks, header)


def encode_state(key: bytes, state: State) -> bytes:
    return sealed(key, _STATE.pack(*state))


def decode_state(key: bytes, value: bytes) -> State:
    return State(*_STATE.unpack(unsealed(key, value)))


def name_key(name: bytes) -> bytes:
    """LMDB keys end at 511 bytes: longer names share the bucket of their first 480."""
    return name[:_LONG]


def encode_bucket(key: bytes, rows: list[NameRow]) -> bytes:
    """All names of one key, in byte order."""
    parts = [
        part
        for row in rows
        for part in (_NAME_ROW.pack(len(row.name), row.version, len(row.descriptor)), row.name, row.descriptor)
    ]
    return sealed(key, b"".join(parts))


def decode_bucket(key: bytes, value: bytes) -> list[NameRow]:
    body, rows, at = unsealed(key, value), [], 0
    while at < len(body):
        name_length, version, descriptor_length = _NAME_ROW.unpack_from(body, at)
        middle = at + _NAME_ROW.size + name_length
        end = middle + descriptor_length
        rows.append(NameRow(body[at + _NAME_ROW.size : middle], version, body[middle:end]))
        at = end
    return rows


def tombstone_key(removed_seq: int, ordinal: int) -> bytes:
    return _TOMBSTONE_KEY.pack(removed_seq, ordinal)


def encode_tombstone(stone: Tombstone) -> bytes:
    key = tombstone_key(stone.removed_seq, stone.ordinal)
    head = _TOMBSTONE.pack(len(stone.name), stone.version, stone.removed_ns)
    return sealed(key, head + stone.name + stone.descriptor)
