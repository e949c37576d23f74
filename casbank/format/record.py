"""Journal records: the only commit point of the bank (format, section 6).

    header 128 | sealed body | BLAKE3-256 of both

Rule 1: a record names its predecessor's hash, so the journal is a chain.
Rule 2: a name occurs at most once in a record, so (name, seq) identifies a version.
Rule 3: an operation that is not known is refused, never skipped.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from blake3 import blake3

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.compression import compress, decompress
from casbank.format.header import HEADER_BYTES, sequence_id
from casbank.format.messages import ARRAY_LENGTH_MAX, Stream, check_version, encode
from casbank.format.seal import TAG_BYTES, FileSeal, Lane
from casbank.model import Buffer, PackInfo

HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)
_VERSION = 1
_HEAD_FIELDS = 6
_BODY = struct.Struct("<BxxxI")
_OVERHEAD_BYTES = HEADER_BYTES + _BODY.size + TAG_BYTES + HASH_BYTES
_LEVEL = 1
_KIND = ErrorKind.RECORD


class First(NamedTuple):
    """Record 1: whose journal this is."""

    bank_id: bytes
    bank_hash: bytes


class Packs(NamedTuple):
    """These packs are live from here on, and pinned while the lease lives."""

    packs: tuple[PackInfo, ...]
    lease_id: bytes | None = None


class Put(NamedTuple):
    """Upsert a name. ``expected`` is None (any), 0 (must not exist) or the version that is replaced."""

    name: str
    descriptor: bytes
    expected: int | None = None


class Delete(NamedTuple):
    """Remove a name; a tombstone stays for the undelete window."""

    name: str
    expected: int | None = None


class Lease(NamedTuple):
    """Acquire or renew a lease, and pin packs and names with it."""

    lease_id: bytes
    owner: str
    kind: str
    acquired_ns: int
    expires_ns: int
    pins: tuple[bytes | str, ...]
    note: str


class Release(NamedTuple):
    """End a lease: it was released, or fenced by a collector."""

    lease_id: bytes
    reason: str


class Sweep(NamedTuple):
    """These packs are dead from here on."""

    pack_ids: tuple[bytes, ...]


class Deleted(NamedTuple):
    """These swept packs are physically gone."""

    pack_ids: tuple[bytes, ...]


class Lost(NamedTuple):
    """Repair: these entries are unavailable from here on."""

    pack_id: bytes
    entries: tuple[int, ...]


class Checkpointed(NamedTuple):
    """The state up to ``seq`` stands in the file of that name; this makes it official."""

    seq: int
    name: str
    file_hash: bytes


class Keyring(NamedTuple):
    """A key epoch may be used only from here on."""

    number: int
    name: str
    file_hash: bytes


ConfigValue: TypeAlias = str | int | bytes | None


class Config(NamedTuple):
    """A property of the bank, or a feature flag."""

    key: str
    value: ConfigValue


class Noop(NamedTuple):
    """Takes a number, so that an earlier attempt at it can no longer land."""


Op: TypeAlias = (
    First | Packs | Put | Delete | Lease | Release | Sweep | Deleted | Lost | Checkpointed | Keyring | Config | Noop
)


class Record(NamedTuple):
    """One entry of the journal. ``previous`` is the hash at the end of record ``seq - 1``; ``time_ns`` wall time."""

    seq: int
    previous: bytes
    transaction_id: bytes
    writer_id: bytes
    time_ns: int
    ops: Sequence[Op]


def encode_record(record: Record, seal: FileSeal) -> bytes:
    """The bytes of a record, its hash at the end. The seal must be of kind RECORD and of this sequence number.

    The caller has kept the record within ``limits.RECORD_BYTES_MAX`` and ``limits.RECORD_OPS_MAX``, and every list in
    an operation within ``messages.ARRAY_LENGTH_MAX``: more of it goes into a second operation.
    """
    assert sequence_id(record.seq) == seal.header.file_id
    assert len(record.ops) <= limits.RECORD_OPS_MAX
    head = [_VERSION, *record[:5]]
    plain = encode([*head, [_op_row(op) for op in record.ops]])
    assert len(plain) + _OVERHEAD_BYTES <= limits.RECORD_BYTES_MAX
    level = _LEVEL if len(plain) > limits.RECORD_COMPRESS_BYTES_MIN else None
    codec, payload = compress(plain, level)
    framed = b"".join((_BODY.pack(codec, len(plain)), payload))
    whole = b"".join((seal.header_bytes, *seal.seal(Lane.BODY, 0, b"", framed)))
    return whole + blake3(whole).digest()


def record_hash(record: bytes) -> bytes:
    """The hash at the end of a record's bytes."""
    return record[-HASH_BYTES:]


def decode_record(data: bytes, seal: FileSeal) -> Record:
    """Record from its bytes. Raises CorruptionError, or UnsupportedFormatError for what a later version wrote."""
    if not _OVERHEAD_BYTES < len(data) <= limits.RECORD_BYTES_MAX:
        raise CorruptionError(f"a record of {len(data)} bytes", kind=_KIND)
    if blake3(memoryview(data)[:-HASH_BYTES]).digest() != data[-HASH_BYTES:]:
        raise CorruptionError("record fails its hash", kind=_KIND)
    framed = seal.open(Lane.BODY, 0, b"", memoryview(data)[HEADER_BYTES:-HASH_BYTES])
    codec, raw = _BODY.unpack_from(framed)
    if raw > limits.RECORD_BYTES_MAX:
        raise CorruptionError("record claims too long a body", kind=_KIND)
    record = _parse_body(decompress(codec, memoryview(framed)[_BODY.size :], raw, _KIND))
    if sequence_id(record.seq) != seal.header.file_id:
        raise CorruptionError("record has another number than its header", kind=_KIND)
    return record


def _parse_body(plain: Buffer) -> Record:
    # A record holds up to a million operations: they are taken one by one, so that no array's claimed length makes
    # msgpack allocate for more than one small operation.
    with Stream(plain, "record", _KIND) as stream:
        fields = stream.array()
        # The version first: a later one may well have another number of fields.
        check_version(stream.element(), _VERSION, "record")
        _require(fields == _HEAD_FIELDS + 1)
        head = [stream.element() for _ in range(_HEAD_FIELDS - 1)]
        seq, previous, transaction_id, writer_id, time_ns = head
        _require(_is_number(seq) and _is_number(time_ns) and _is_id(previous, 32))
        _require(_is_id(transaction_id, 16) and _is_id(writer_id, 16))
        count = stream.array()
        _require(count <= limits.RECORD_OPS_MAX)
        ops = [_op(stream.element()) for _ in range(count)]
        names = [op.name for op in ops if isinstance(op, Put | Delete)]
        _require(len(names) == len(set(names)))
        return Record(seq, previous, transaction_id, writer_id, time_ns, ops)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("a field is out of range")


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_id(value: Any, length: int) -> bool:
    return type(value) is bytes and len(value) == length


def _is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value.encode()) <= limits.NAME_BYTES_MAX and "\0" not in value


def _is_expected(value: Any) -> bool:
    return value is None or _is_number(value)


def _first(bank_id: Any, bank_hash: Any) -> First:
    _require(_is_id(bank_id, 16) and _is_id(bank_hash, 32))
    return First(bank_id, bank_hash)


def pack_info(row: Any) -> PackInfo:
    """One pack of a PACKS op; ValueError if a field is out of range."""
    pack_id, kind, length, whole, entries, raw = row
    _require(_is_id(pack_id, 16) and _is_id(whole, 32))
    _require(all(map(_is_number, (kind, length, entries, raw))) and kind in (1, 2))
    _require(length <= limits.PACK_BYTES_MAX and entries <= limits.PACK_ENTRIES_MAX)
    return PackInfo(pack_id, kind, length, whole, entries, raw)


def _packs(rows: Any, lease_id: Any) -> Packs:
    _require(type(rows) is list and (lease_id is None or _is_id(lease_id, 16)))
    return Packs(tuple(pack_info(row) for row in rows), lease_id)


def _put(name: Any, descriptor: Any, expected: Any) -> Put:
    _require(_is_name(name) and type(descriptor) is bytes and _is_expected(expected))
    return Put(name, descriptor, expected)


def _delete(name: Any, expected: Any) -> Delete:
    _require(_is_name(name) and _is_expected(expected))
    return Delete(name, expected)


def _lease(*fields: Any) -> Lease:
    lease_id, owner, kind, acquired_ns, expires_ns, pins, note = fields
    _require(_is_id(lease_id, 16) and all(type(text) is str for text in (owner, kind, note)))
    _require(_is_number(acquired_ns) and _is_number(expires_ns))
    _require(type(pins) is list and all(_is_id(pin, 16) or _is_name(pin) for pin in pins))
    return Lease(lease_id, owner, kind, acquired_ns, expires_ns, tuple(pins), note)


def _release(lease_id: Any, reason: Any) -> Release:
    _require(_is_id(lease_id, 16) and reason in ("released", "fenced"))
    return Release(lease_id, reason)


def _ids(values: Any) -> tuple[bytes, ...]:
    _require(type(values) is list and all(_is_id(value, 16) for value in values))
    return tuple(values)


def _lost(pack_id: Any, entries: Any) -> Lost:
    _require(_is_id(pack_id, 16) and type(entries) is list and all(map(_is_number, entries)))
    _require(max(entries, default=0) < limits.PACK_ENTRIES_MAX)
    return Lost(pack_id, tuple(entries))


def _file(number: Any, name: Any, file_hash: Any) -> tuple[int, str, bytes]:
    _require(_is_number(number) and type(name) is str and _is_id(file_hash, 32))
    return number, name, file_hash


def _config(key: Any, value: Any) -> Config:
    _require(type(key) is str and (value is None or type(value) in (str, int, bytes)))
    return Config(key, value)


# The numbers are the format's. A row is [number, *fields].
_PARSERS: dict[int, tuple[type[Op], Callable[..., Op]]] = {
    1: (First, _first),
    2: (Packs, _packs),
    3: (Put, _put),
    4: (Delete, _delete),
    5: (Lease, _lease),
    6: (Release, _release),
    7: (Sweep, lambda ids: Sweep(_ids(ids))),
    8: (Deleted, lambda ids: Deleted(_ids(ids))),
    9: (Lost, _lost),
    10: (Checkpointed, lambda *fields: Checkpointed(*_file(*fields))),
    11: (Keyring, lambda *fields: Keyring(*_file(*fields))),
    12: (Config, _config),
    13: (Noop, Noop),
}
_NUMBERS: dict[type[Op], int] = {cls: number for number, (cls, _) in _PARSERS.items()}
_LISTING = frozenset({Packs, Lease, Sweep, Deleted, Lost})


def _op_row(op: Op) -> tuple[object, ...]:
    if type(op) in _LISTING:
        assert all(len(field) <= ARRAY_LENGTH_MAX for field in op if type(field) is tuple)
    return (_NUMBERS[type(op)], *op)


def _op(row: Any) -> Op:
    _require(type(row) is list and bool(row))
    known = _PARSERS.get(row[0]) if type(row[0]) is int else None
    if known is None:
        raise UnsupportedFormatError(f"unknown operation {row[0]!r} in the journal")
    return known[1](*row[1:])


def op_bytes(op: Op) -> int:
    """An upper bound of what an operation adds to a record, for keeping records within their limit."""
    if isinstance(op, Put):
        return len(op.name.encode()) + len(op.descriptor) + 32
    return len(encode(_op_row(op))) + 8
