"""What the tests of the format share: one bank's seals, one good file of each kind, and how to spoil it."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import msgpack
import zstandard
from blake3 import blake3
from hypothesis import strategies as st

from casbank.errors import CorruptionError, UnsupportedFormatError
from casbank.format.bank import BankDescriptor, decode_bank, encode_bank
from casbank.format.checkpoint import BLOCK_HEAD_BYTES, Block, Section, decode_block, decode_block_head, encode_block
from casbank.format.descriptor import Descriptor, decode_descriptor, encode_descriptor
from casbank.format.header import HEADER_BYTES, Header, Kind, Suite, decode_header, encode_header, sequence_id
from casbank.format.manifest import InnerRow, LeafRow, decode_inner, decode_leaf, encode_inner, encode_leaf
from casbank.format.pack import (
    Toc,
    Trailer,
    decode_toc,
    decode_trailer,
    encode_toc,
    encode_trailer,
    open_entry,
    seal_entry,
    toc_bytes,
)
from casbank.format.record import NO_HASH, Config, Noop, Packs, Put, Record, Sweep, decode_record, encode_record
from casbank.format.seal import TAG_BYTES, FileSeal, Lane
from casbank.model import Buffer, ChunkRow, EntryRow, EntryType, PackInfo
from casbank.sealing.checksum import ChecksumSealing

REFUSALS = (CorruptionError, UnsupportedFormatError)
BANK_ID = bytes(range(16))
PACK_ID = bytes(range(16, 32))
SALT = bytes(range(32, 48))
SEQ = 7
SEALING = ChecksumSealing(BANK_ID)
PACK_SEAL = SEALING.create(Kind.DATA_PACK, PACK_ID, SALT)
RECORD_SEAL = SEALING.create(Kind.RECORD, sequence_id(SEQ), SALT)
CHECKPOINT_SEAL = SEALING.create(Kind.CHECKPOINT, sequence_id(SEQ), SALT)
BLOCK_NUMBER = 3

ids16 = st.binary(min_size=16, max_size=16)
ids32 = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 2**63 - 1)


@dataclass(frozen=True)
class Case:
    """One decoder: a file that it takes, and ``behind``, which puts any plain bytes behind correct tags and hashes."""

    name: str
    good: bytes
    decode: Callable[[bytes], object]
    behind: Callable[[bytes], bytes]

    def __str__(self) -> str:
        return self.name


def refuses(case: Case, data: bytes) -> bool:
    """Whether the decoder refuses; any exception but the two it may raise passes through."""
    try:
        case.decode(data)
    except REFUSALS:
        return True
    return False


def sealed(seal: FileSeal, lane: Lane, counter: int, extra: bytes, plain: Buffer) -> bytes:
    return b"".join(seal.seal(lane, counter, extra, plain))


# --- header ----------------------------------------------------------------------------------------------------------

HEADER = Header(Kind.DATA_PACK, Suite.CHECKSUM, BANK_ID, PACK_ID, SALT)


def checked_header(body: bytes) -> bytes:
    """A header of any 120 bytes, with its check."""
    body = body[:120].ljust(120, b"\0")
    return body + blake3(body).digest(8)


# --- bank descriptor -------------------------------------------------------------------------------------------------

BANK = BankDescriptor(BANK_ID, 1_700_000_000_000_000_000, "default", 1, 86_400, "file:///journal")


def bank_of(body: bytes) -> bytes:
    """A BANK file with any body and a correct hash."""
    whole = encode_header(Header(Kind.BANK, Suite.CHECKSUM, BANK_ID, BANK_ID, SALT)) + body
    return whole + blake3(whole).digest()


# --- record ----------------------------------------------------------------------------------------------------------

RECORD = Record(
    SEQ,
    NO_HASH,
    bytes(16),
    bytes(range(16)),
    1_700_000_000_000_000_000,
    (
        Packs((PackInfo(PACK_ID, 1, 4096, bytes(32), 3, 9000),), bytes(16)),
        Put("a/b", b"descriptor", 0),
        Sweep((PACK_ID,)),
        Config("key", "value"),
        Noop(),
    ),
)


def record_of(plain: bytes, *, codec: int = 0, raw: int | None = None, seal: FileSeal = RECORD_SEAL) -> bytes:
    """A record with any body, correct tag and hash; ``raw`` is what its frame claims."""
    framed = struct.pack("<B3xI", codec, len(plain) if raw is None else raw) + plain
    whole = seal.header_bytes + sealed(seal, Lane.BODY, 0, b"", framed)
    return whole + blake3(whole).digest()


def read_record(data: bytes) -> Record:
    return decode_record(data, SEALING.open(data, Kind.RECORD, sequence_id(SEQ)))


# --- checkpoint block ------------------------------------------------------------------------------------------------

ROWS = [["alpha", 5, b"x"], ["beta", 6, b"y"]]


def block_of(plain: bytes, *, codec: int = 0, raw: int | None = None, flags: int = 0) -> bytes:
    head = struct.pack("<IIBBH", len(plain) + TAG_BYTES, len(plain) if raw is None else raw, codec, flags, 0)
    return head + sealed(CHECKPOINT_SEAL, Lane.BODY, BLOCK_NUMBER, head, plain)


def read_block(data: bytes, number: int = BLOCK_NUMBER) -> Block:
    head = decode_block_head(data[:BLOCK_HEAD_BYTES])
    message = data[BLOCK_HEAD_BYTES : BLOCK_HEAD_BYTES + head.stored]
    return decode_block(CHECKPOINT_SEAL, number, data[:BLOCK_HEAD_BYTES], message)


# --- pack ------------------------------------------------------------------------------------------------------------

PAYLOAD = b"forty-two bytes of which none is compressed"
ENTRY = EntryRow(EntryType.CHUNKS, 0, len(PAYLOAD) + TAG_BYTES, len(PAYLOAD), 2)
TOC = Toc([ENTRY], [ChunkRow(bytes(32), 0, 0, 10), ChunkRow(bytes(31) + b"\1", 0, 10, len(PAYLOAD) - 10)])
TOC_LENGTH = toc_bytes(1, 2)
TOC_OFFSET = HEADER_BYTES + ENTRY.stored
PACK_LENGTH = TOC_OFFSET + 2 * TOC_LENGTH + 128
TRAILER = Trailer(TOC_OFFSET, TOC_LENGTH, 1, 0, PACK_ID, bytes(range(32)))


def read_entry(data: bytes) -> Buffer:
    return open_entry(PACK_SEAL, 0, ENTRY, data)


def entry_of(plain: bytes) -> bytes:
    """A well sealed entry whose row (what read_entry goes by) says another length, unless it happens to be right."""
    return sealed(PACK_SEAL, Lane.ENTRY, 0, entry_row(ENTRY), plain)


def entry_row(row: EntryRow, flags: int = 0) -> bytes:
    return struct.pack("<BBHIII", row.type, row.codec, flags, row.stored, row.raw, row.chunks)


def read_packed(message: bytes, raw: int) -> bytes:
    """Opens a compressed entry whose row claims ``raw`` bytes."""
    row = EntryRow(EntryType.CHUNKS, 1, len(message), raw, 1)
    return bytes(open_entry(PACK_SEAL, 0, row, message))


def packed_of(frame: bytes, raw: int) -> bytes:
    """A well sealed entry with any bytes in place of a zstd frame, for a row that claims ``raw`` bytes."""
    row = EntryRow(EntryType.CHUNKS, 1, len(frame) + TAG_BYTES, raw, 1)
    return sealed(PACK_SEAL, Lane.ENTRY, 0, entry_row(row), frame)


def toc_of(plain: bytes) -> bytes:
    return b"".join(sealed(PACK_SEAL, Lane.TOC, copy, b"", plain) for copy in range(2))


def read_toc(data: bytes, entries: int = 1) -> Toc:
    return decode_toc(PACK_SEAL, TRAILER._replace(toc_length=len(data) // 2, entries=entries), data)


def trailer_of(locator: bytes, pack_id: bytes = PACK_ID, magic: bytes = b"CASTRLR1") -> bytes:
    """A trailer with any 32 bytes as its locator, correct tag and check."""
    message = sealed(PACK_SEAL, Lane.TRAILER, 0, b"", locator[:32].ljust(32, b"\0"))
    body = magic + message + pack_id + bytes(48)
    return body + blake3(body).digest(8)


def read_trailer(data: bytes) -> Trailer:
    return decode_trailer(PACK_SEAL, data, PACK_LENGTH)


# --- descriptor and manifest -----------------------------------------------------------------------------------------

DESCRIPTOR = Descriptor(5, bytes(32), bytes(32), 0, 0, 1_700_000_000_000_000_000, {"k": "v", "b": b"\0"}, b"hello")
LEAF = [LeafRow(bytes([n]) * 32, 1 + n) for n in range(5)]
INNER = [InnerRow(bytes([n]) * 32, 1000 + n, 1 + n) for n in range(5)]


def _as_it_is(data: bytes) -> bytes:
    return data


# A flipped bit of these is always noticed: every byte is under a hash or a tag.
CHECKED = [
    Case("header", encode_header(HEADER), decode_header, checked_header),
    Case("bank", encode_bank(BANK, SALT), decode_bank, bank_of),
    Case("record", encode_record(RECORD, RECORD_SEAL), read_record, record_of),
    Case(
        "block",
        encode_block(CHECKPOINT_SEAL, BLOCK_NUMBER, Section.NAMES, ROWS, final=True),
        read_block,
        block_of,
    ),
    Case("entry", b"".join(seal_entry(PACK_SEAL, 0, ENTRY, PAYLOAD)), read_entry, entry_of),
    Case("trailer", encode_trailer(PACK_SEAL, TRAILER), read_trailer, trailer_of),
    Case(
        "packed entry",
        packed_of(zstandard.compress(bytes(999)), 999),
        lambda data: read_packed(data, 999),
        lambda plain: packed_of(plain, 999),
    ),
    Case(
        "packed record",
        encode_record(RECORD._replace(ops=[Put("a", bytes(999))]), RECORD_SEAL),
        read_record,
        lambda plain: record_of(plain, codec=1, raw=999),
    ),
    Case(
        "packed block",
        encode_block(CHECKPOINT_SEAL, BLOCK_NUMBER, Section.NAMES, [["a", 1, bytes(999)]], final=False),
        read_block,
        lambda plain: block_of(plain, codec=1, raw=999),
    ),
]
# These rely on what they are stored in, or stand twice.
OTHERS = [
    Case("toc", b"".join(encode_toc(PACK_SEAL, TOC)), read_toc, toc_of),
    Case("descriptor", encode_descriptor(DESCRIPTOR), decode_descriptor, _as_it_is),
    Case("leaf", encode_leaf(LEAF), decode_leaf, _as_it_is),
    Case("inner", encode_inner(INNER), decode_inner, _as_it_is),
]
EVERY = CHECKED + OTHERS

# --- spoilt bytes ----------------------------------------------------------------------------------------------------

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | ids16
    | ids32
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
packed_values = st.lists(_values, max_size=9).map(msgpack.packb)
"""msgpack that is well formed and means nothing."""
garbage = st.binary(max_size=300) | packed_values
