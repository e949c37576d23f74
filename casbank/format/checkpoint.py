"""Checkpoints: the state of the bank up to one record, as sealed blocks (format, section 10).

    header 128 | block 0 | block 1 | ... | BLAKE3-256 of everything before

Rule 1: a block says its number (the seal's counter) and whether it is the last, so none can be left out or moved.
Rule 2: blocks are made and read one by one: a checkpoint may be larger than memory.
Rule 3: names and tombstones are sorted, so that the next checkpoint is a merge.
Rule 4: the state comes last, when everything has been counted.
"""

import struct
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format import messages
from casbank.format.compression import compress, decompress
from casbank.format.seal import TAG_BYTES, FileSeal, Lane
from casbank.model import Buffer

_BLOCK = struct.Struct("<IIBBH")
BLOCK_HEAD_BYTES = _BLOCK.size
_FINAL = 1
_LEVEL = 1
_KIND = ErrorKind.CHECKPOINT


class Section(IntEnum):
    """What the rows of a block are; sections follow one another in the order of ``SECTION_ORDER``."""

    CONFIG = 1
    PACKS = 2
    LEASES = 3
    NAMES = 4
    TOMBSTONES = 5
    STATE = 6
    SWEPT = 7


SECTION_ORDER = [
    Section.CONFIG,
    Section.PACKS,
    Section.LEASES,
    Section.SWEPT,
    Section.NAMES,
    Section.TOMBSTONES,
    Section.STATE,
]
_SECTIONS = frozenset(Section)
Row: TypeAlias = list[Any]

# What the rows of a section are made of.
_NUMBER, _TEXT, _BYTES, _LIST = (int,), (str,), (bytes,), (list,)
_COLUMNS: dict[Section, tuple[tuple[type, ...], ...]] = {
    Section.CONFIG: (_TEXT, (str, int, bytes, type(None))),
    Section.PACKS: (_NUMBER, _BYTES, _NUMBER, _NUMBER, _BYTES, _NUMBER, _NUMBER),
    Section.LEASES: (_BYTES, _NUMBER, _NUMBER, _NUMBER, _TEXT, _TEXT, _TEXT, _LIST),
    Section.SWEPT: (_BYTES, _NUMBER, _NUMBER, _NUMBER, _NUMBER),
    Section.NAMES: (_TEXT, _NUMBER, _BYTES),
    Section.TOMBSTONES: (_NUMBER, _NUMBER, _TEXT, _NUMBER, _BYTES, _NUMBER),
    Section.STATE: (_NUMBER, _BYTES, *[_NUMBER] * 6),
}


def _check_rows(section: Section, rows: list[Row]) -> None:
    columns = _COLUMNS[section]
    for row in rows:
        # Not isinstance: True is an int to that.
        if len(row) != len(columns) or not all(type(item) in kinds for item, kinds in zip(row, columns, strict=True)):
            raise CorruptionError(f"a row of {section.name.lower()} has an impossible field", kind=_KIND)
        if section is Section.LEASES and not all(map(_is_pin, row[-1])):
            raise CorruptionError("a lease of a checkpoint holds what is neither pack nor name", kind=_KIND)


def _is_pin(pin: Any) -> bool:
    return type(pin) is list and len(pin) == 2 and type(pin[0]) in (bytes, str) and type(pin[1]) is int


class BlockHead(NamedTuple):
    """The 12 bytes before a sealed block: lengths of the message and of the plain bytes, codec, last or not."""

    stored: int
    raw: int
    codec: int
    final: bool


class Block(NamedTuple):
    """One decoded block."""

    section: Section
    rows: list[Row]
    final: bool


def encode_block(seal: FileSeal, number: int, section: Section, rows: list[Row], *, final: bool) -> bytes:
    """Block ``number`` of a checkpoint.

    The rows' bytes must stay below ``limits.CHECKPOINT_BLOCK_BYTES_MAX``, and a list within a row (the pins of a lease)
    within ``messages.ARRAY_LENGTH_MAX``.
    """
    if section is Section.LEASES:
        assert all(len(row[-1]) <= messages.ARRAY_LENGTH_MAX for row in rows)
    assert len(rows) + sum(map(len, rows)) <= messages.ROWS_ITEMS_MAX
    plain = messages.encode([int(section), *rows])
    assert len(plain) <= limits.CHECKPOINT_BLOCK_BYTES_MAX
    codec, payload = compress(plain, _LEVEL)
    head = _BLOCK.pack(len(payload) + TAG_BYTES, len(plain), codec, _FINAL if final else 0, 0)
    return b"".join((head, *seal.seal(Lane.BODY, number, head, payload)))


def decode_block_head(data: Buffer) -> BlockHead:
    """What follows; the message's length has been checked and may be read."""
    if len(data) != _BLOCK.size:
        raise CorruptionError("checkpoint is cut short", kind=_KIND)
    stored, raw, codec, flags, _ = _BLOCK.unpack(data)
    if flags & ~_FINAL:
        raise UnsupportedFormatError(f"unknown flags {flags:#x} in a checkpoint")
    if raw > limits.CHECKPOINT_BLOCK_BYTES_MAX or stored > limits.CHECKPOINT_BLOCK_BYTES_MAX + TAG_BYTES:
        raise CorruptionError("a checkpoint's block is too long", kind=_KIND)
    return BlockHead(stored, raw, codec, bool(flags & _FINAL))


def decode_block(seal: FileSeal, number: int, head: Buffer, message: Buffer) -> Block:
    """Block ``number`` from its head and message."""
    known = decode_block_head(head)
    payload = seal.open(Lane.BODY, number, bytes(head), message)
    plain = decompress(known.codec, payload, known.raw, _KIND)
    section, rows = messages.decode_rows(plain, "checkpoint block", _KIND)
    if type(section) is not int or section not in _SECTIONS:
        raise UnsupportedFormatError(f"unknown section {section!r} in a checkpoint")
    _check_rows(Section(section), rows)
    return Block(Section(section), rows, known.final)
