"""Rows of the index's tables, to bytes and back (format, section 12).

Rule: every value ends in a CRC-32 that also covers its key. LMDB has no checksums: single flipped bits in its file
gave wrong or missing rows without an error.
"""

import struct
from typing import NamedTuple
from zlib import crc32

from blake3 import blake3

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind
from casbank.format import messages
from casbank.model import EntryRow, Location, PackInfo

_CRC = struct.Struct(">I")
# Big-endian and the pack's number first: of a chunk's locations LMDB then gives the oldest pack's first.
_LOCATION = struct.Struct(">IIIBBIIHIII")
_PACK = struct.Struct(">16sBQ32sIQI128s")
_NUMBER = struct.Struct(">I")
_STATE = struct.Struct(">Q32sIQQQQQ")
_NAME_ROW = struct.Struct(">HQI")
_TOMBSTONE_KEY = struct.Struct(">QI")
_TOMBSTONE = struct.Struct(">HQQ")
_LEASE = struct.Struct(">QQQ")
_PIN = struct.Struct(">QB")
_SWEPT = struct.Struct(">QQQ?")
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


class LeaseRow(NamedTuple):
    """A living lease. ``seq`` is the record that acquired it: its fencing number."""

    id: bytes
    seq: int
    acquired_ns: int
    expires_ns: int
    owner: str
    kind: str
    note: str


class PinRow(NamedTuple):
    """What a living lease holds since record ``seq``: a pack by its id, or the version that a name had then."""

    lease_id: bytes
    seq: int
    target: bytes | str


class SweptRow(NamedTuple):
    """A pack that is dead since record ``seq`` and may still lie in the store; an orphan was never live."""

    id: bytes
    seq: int
    swept_ns: int
    length: int
    is_orphan: bool


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
        place.ordinal,
    )
    return sealed(chunk_id, body)


def decode_location(chunk_id: bytes, value: bytes) -> Location:
    body = unsealed(chunk_id, value)
    pack, offset, entry, kind, codec, stored, raw, chunks, start, length, ordinal = _LOCATION.unpack(body)
    return Location(pack, offset, entry, EntryRow(kind, codec, stored, raw, chunks), start, length, ordinal)


def pack_number_of(chunk_id: bytes, value: bytes) -> int:
    """The pack number in a location's value; its checksum is compared."""
    return int.from_bytes(unsealed(chunk_id, value)[: _NUMBER.size], "big")


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


def decode_tombstone(key: bytes, value: bytes) -> Tombstone:
    body = unsealed(key, value)
    removed_seq, ordinal = _TOMBSTONE_KEY.unpack(key)
    length, version, removed_ns = _TOMBSTONE.unpack_from(body)
    end = _TOMBSTONE.size + length
    return Tombstone(removed_seq, ordinal, body[_TOMBSTONE.size : end], version, body[end:], removed_ns)


def encode_lease(row: LeaseRow) -> bytes:
    head = _LEASE.pack(row.seq, row.acquired_ns, row.expires_ns)
    return sealed(row.id, head + messages.encode([row.owner, row.kind, row.note]))


def decode_lease(lease_id: bytes, value: bytes) -> LeaseRow:
    body = unsealed(lease_id, value)
    texts = messages.decode(body[_LEASE.size :], "lease", ErrorKind.INDEX_VALUE)
    return LeaseRow(lease_id, *_LEASE.unpack_from(body), *texts)


def encode_pin(row: PinRow) -> bytes:
    is_name = isinstance(row.target, str)
    target = row.target.encode() if isinstance(row.target, str) else row.target
    return sealed(pin_key(row), _PIN.pack(row.seq, is_name) + target)


def decode_pin(key: bytes, value: bytes) -> PinRow:
    body = unsealed(key, value)
    seq, is_name = _PIN.unpack_from(body)
    target = body[_PIN.size :]
    return PinRow(key[:16], seq, target.decode() if is_name else target)


def pin_key(row: PinRow) -> bytes:
    """Lease id and a hash of the target: names are longer than what a key or a duplicate may be."""
    target = row.target.encode() if isinstance(row.target, str) else row.target
    return row.lease_id + blake3(target).digest(16)


def encode_swept(row: SweptRow) -> bytes:
    return sealed(row.id, _SWEPT.pack(row.seq, row.swept_ns, row.length, row.is_orphan))


def decode_swept(pack_id: bytes, value: bytes) -> SweptRow:
    return SweptRow(pack_id, *_SWEPT.unpack(unsealed(pack_id, value)))
