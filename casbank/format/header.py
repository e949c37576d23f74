"""The 128 bytes at the start of every file (format, section 2).

Rule 1: another major version, kind or suite is refused before anything behind the header is parsed.
Rule 2: an unknown bit of the incompatible flags refuses the file. The other two flag words are the caller's to judge.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from blake3 import blake3

from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format import MAJOR, MINOR
from casbank.model import Buffer

MAGIC = b"\x89CAS\r\n\x1a\n"
HEADER_BYTES = 128
ID_BYTES = 16
SALT_BYTES = 16

# magic, major, minor, kind, suite, incompatible, bank id, file id, epoch, read-only-compatible, reserved, salt,
# commitment, collector-compatible, reserved
_FIELDS = struct.Struct("<8s4BI16s16sII8s16s32sI4s")
_CHECK_BYTES = 8
# No feature of this word exists yet.
_KNOWN_INCOMPATIBLE = 0


_ID_DIGITS = frozenset("0123456789abcdef")
_E = TypeVar("_E", bound=IntEnum)


class Kind(IntEnum):
    """What a file is."""

    DATA_PACK = 1
    META_PACK = 2
    RECORD = 3
    CHECKPOINT = 4
    KEY_SLOT = 5
    KEYRING = 6
    BANK = 7


class Suite(IntEnum):
    """How a file is sealed."""

    CHECKSUM = 0
    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header. Ids and salt are 16 bytes, the commitment 32; it is zero in suite 0."""

    kind: Kind
    suite: Suite
    bank_id: bytes
    file_id: bytes
    salt: bytes
    epoch: int = 0
    commitment: bytes = bytes(32)
    incompatible: int = 0
    read_only_compatible: int = 0
    collector_compatible: int = 0


def encode_header(header: Header) -> bytes:
    """The 128 bytes of a header."""
    body = _FIELDS.pack(
        MAGIC,
        MAJOR,
        MINOR,
        header.kind,
        header.suite,
        header.incompatible,
        header.bank_id,
        header.file_id,
        header.epoch,
        header.read_only_compatible,
        bytes(8),
        header.salt,
        header.commitment,
        header.collector_compatible,
        bytes(4),
    )
    return body + blake3(body).digest(_CHECK_BYTES)


def decode_header(data: Buffer) -> Header:
    """Header from the first 128 bytes of ``data``.

    Raises CorruptionError for anything that is not a header, UnsupportedFormatError for a header of another major
    version, of an unknown kind or suite, or with an unknown incompatible feature.
    """
    head = bytes(data[:HEADER_BYTES])
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        raise CorruptionError("not a casbank file", kind=ErrorKind.HEADER)
    if blake3(head[:-_CHECK_BYTES]).digest(_CHECK_BYTES) != head[-_CHECK_BYTES:]:
        raise CorruptionError("header fails its checksum", kind=ErrorKind.HEADER)
    # Named in the order of the table; reserved bytes are ignored on read.
    (_, major, _, kind, suite, incompatible, bank_id, file_id, epoch, read_only, _, salt, commitment, collector, _) = (
        _FIELDS.unpack(head[:-_CHECK_BYTES])
    )
    if major != MAJOR:
        raise UnsupportedFormatError(f"format version {major} is not known to this casbank, which reads {MAJOR}")
    if incompatible & ~_KNOWN_INCOMPATIBLE:
        raise UnsupportedFormatError(f"unknown incompatible features {incompatible:#x}")
    return Header(
        _known(Kind, kind),
        _known(Suite, suite),
        bank_id,
        file_id,
        salt,
        epoch,
        commitment,
        incompatible,
        read_only,
        collector,
    )


def _known(kinds: type[_E], value: int) -> _E:
    try:
        return kinds(value)
    except ValueError:
        raise UnsupportedFormatError(f"unknown {kinds.__name__.lower()} {value}") from None


def parse_id(digits: str) -> bytes | None:
    """An id from its 32 lower-case hexadecimal digits, as names of files have it; None for anything else."""
    if len(digits) != 2 * ID_BYTES or not _ID_DIGITS.issuperset(digits):
        return None
    return bytes.fromhex(digits)


def sequence_id(seq: int) -> bytes:
    """The file id of record or checkpoint ``seq``: eight zero bytes and the number, big-endian."""
    return bytes(8) + seq.to_bytes(8, "big")
