"""Blocks of a checkpoint."""

import struct
from contextlib import nullcontext

import msgpack
import pytest
from format_cases import BLOCK_NUMBER, CHECKPOINT_SEAL, PACK_ID, ROWS, SALT, SEALING, SEQ, block_of, read_block
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.errors import CorruptionError, UnsupportedFormatError
from casbank.format.checkpoint import (
    BLOCK_HEAD_BYTES,
    SECTION_ORDER,
    Section,
    decode_block,
    decode_block_head,
    encode_block,
)
from casbank.format.header import Kind, sequence_id
from casbank.format.messages import ARRAY_LENGTH_MAX

GOOD = encode_block(CHECKPOINT_SEAL, BLOCK_NUMBER, Section.NAMES, ROWS, final=True)


_NUMBERS = st.integers(0, 2**63 - 1)
_TEXTS = st.text(max_size=40)
_BLOBS = st.binary(max_size=80)
_PINS = st.lists(st.tuples(_TEXTS | _BLOBS, _NUMBERS).map(list), max_size=4)
_ROWS_OF = {
    Section.CONFIG: st.tuples(_TEXTS, st.none() | _TEXTS | _NUMBERS | _BLOBS),
    Section.PACKS: st.tuples(_NUMBERS, _BLOBS, _NUMBERS, _NUMBERS, _BLOBS, _NUMBERS, _NUMBERS),
    Section.LEASES: st.tuples(_BLOBS, _NUMBERS, _NUMBERS, _NUMBERS, _TEXTS, _TEXTS, _TEXTS, _PINS),
    Section.SWEPT: st.tuples(_BLOBS, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS),
    Section.NAMES: st.tuples(_TEXTS, _NUMBERS, _BLOBS),
    Section.TOMBSTONES: st.tuples(_NUMBERS, _NUMBERS, _TEXTS, _NUMBERS, _BLOBS, _NUMBERS),
    Section.STATE: st.tuples(_NUMBERS, _BLOBS, *[_NUMBERS] * 6),
}


@given(st.data(), st.sampled_from(list(_ROWS_OF)), st.booleans())
def test_block_round_trips(data: st.DataObject, section: Section, final: bool) -> None:
    """A block decodes to the section, rows and mark that were encoded."""
    rows = [list(row) for row in data.draw(st.lists(_ROWS_OF[section], max_size=8))]
    block = encode_block(CHECKPOINT_SEAL, BLOCK_NUMBER, section, rows, final=final)
    assert read_block(block) == (section, rows, final)
    assert decode_block_head(block[:BLOCK_HEAD_BYTES]).stored == len(block) - BLOCK_HEAD_BYTES


@pytest.mark.parametrize("section", list(_ROWS_OF))
@pytest.mark.parametrize("row", [[], [True], ["a", True, b""], [1.5, b"", 1, 1, 1, 1, 1, 1], [None] * 6])
def test_row_of_another_shape_is_refused(section: Section, row: list[object]) -> None:
    """A row whose items are not the section's, in number or type, never leaves the decoder."""
    with pytest.raises(CorruptionError):
        read_block(block_of(msgpack.packb([int(section), row])))


@pytest.mark.parametrize("pin", [[], [PACK_ID], [PACK_ID, 1, 1], [1, 1], [None, 1], ["name", True], "name", PACK_ID, 1])
def test_pin_of_another_shape_is_refused(pin: object) -> None:
    """What a lease holds is a pack or a name, and since when."""
    good = ["name", 1], [PACK_ID, 2]
    for pins, refused in ((good, False), ([*good, pin], True)):
        block = block_of(msgpack.packb([int(Section.LEASES), [PACK_ID, 1, 2, 3, "owner", "pin", "note", pins]]))
        with pytest.raises(CorruptionError) if refused else nullcontext():
            assert read_block(block).section is Section.LEASES


def test_every_section_is_tested() -> None:
    assert set(_ROWS_OF) == set(Section) == set(SECTION_ORDER)


def test_block_of_more_rows_than_a_list_may_have_round_trips() -> None:
    """The rows of a block are not bounded by what bounds a list within a row."""
    rows = [[f"name {number}", number, b"descriptor"] for number in range(3 * ARRAY_LENGTH_MAX)]
    data = encode_block(CHECKPOINT_SEAL, BLOCK_NUMBER, Section.NAMES, rows, final=False)
    assert read_block(data).rows == rows


def test_block_lies_as_the_table_says() -> None:
    """A small block is a head of 12 bytes, msgpack of ``[section, row, ...]``, and a tag."""
    plain = msgpack.packb([int(Section.NAMES), *ROWS])
    assert GOOD[:12] == struct.pack("<IIBBH", len(plain) + 16, len(plain), 0, 1, 0)
    assert GOOD[12:-16] == plain


@pytest.mark.parametrize("number", [0, BLOCK_NUMBER - 1, BLOCK_NUMBER + 1, 2**64 - 1])
def test_block_opens_at_no_other_number(number: int) -> None:
    """A block is bound to its number, so none can be left out, repeated or moved."""
    with pytest.raises(CorruptionError):
        read_block(GOOD, number)


@pytest.mark.parametrize(
    ("kind", "seq", "salt"),
    [(Kind.RECORD, SEQ, SALT), (Kind.CHECKPOINT, SEQ + 1, SALT), (Kind.CHECKPOINT, SEQ, PACK_ID)],
    ids=["kind", "number", "salt"],
)
def test_block_opens_in_no_other_file(kind: Kind, seq: int, salt: bytes) -> None:
    """A block is bound to its checkpoint's header."""
    with pytest.raises(CorruptionError):
        decode_block(SEALING.create(kind, sequence_id(seq), salt), BLOCK_NUMBER, GOOD[:12], GOOD[12:])


def test_final_mark_is_sealed() -> None:
    """Nobody can end a checkpoint early by setting the mark of an earlier block."""
    data = bytearray(encode_block(CHECKPOINT_SEAL, BLOCK_NUMBER, Section.NAMES, ROWS, final=False))
    data[9] |= 1
    with pytest.raises(CorruptionError):
        read_block(bytes(data))


@pytest.mark.parametrize("section", [0, 8, 255, -1, "NAMES", None, True, 5.0, [], b""])
def test_unknown_section_is_unsupported(section: object) -> None:
    """A section of a later version is refused as such."""
    with pytest.raises(UnsupportedFormatError):
        read_block(block_of(msgpack.packb([section, ["row"]])))


@pytest.mark.parametrize("flags", [2, 3, 128])
def test_unknown_flags_are_unsupported(flags: int) -> None:
    """A flag of a later version is refused as such, before the block is read."""
    with pytest.raises(UnsupportedFormatError):
        decode_block_head(block_of(b"", flags=flags)[:12])


@pytest.mark.parametrize("codec", [2, 255])
def test_unknown_codec_is_unsupported(codec: int) -> None:
    """A codec of a later version is refused as such."""
    with pytest.raises(UnsupportedFormatError):
        read_block(block_of(b"plain", codec=codec))


@pytest.mark.parametrize("lengths", [(2**32 - 1, 5), (5, 2**32 - 1), (limits.CHECKPOINT_BLOCK_BYTES_MAX + 17, 5)])
def test_long_blocks_are_corruption(lengths: tuple[int, int]) -> None:
    """A block that claims more than 4 MiB is refused by its head, before anything is read or allocated."""
    with pytest.raises(CorruptionError):
        decode_block_head(struct.pack("<IIBBH", *lengths, 0, 0, 0))


@pytest.mark.parametrize("rows", [[1, 1], [1, "row"], [1, None], [1, {}], [1, [1], {"a": 1}]])
def test_rows_are_lists(rows: list[object]) -> None:
    """A row of anything else is refused."""
    with pytest.raises(CorruptionError):
        read_block(block_of(msgpack.packb(rows)))


def test_what_could_not_be_read_is_not_written() -> None:
    """Pins too many for the reader, and rows too many for a block, fail before they are sealed."""
    pins = [[PACK_ID, 1]] * (ARRAY_LENGTH_MAX + 1)
    lease = [bytes(16), 1, 2, 3, "owner", "kind", "note", pins]
    for section, rows in ((Section.LEASES, [lease]), (Section.NAMES, [[]] * 2**20), (Section.NAMES, [[bytes(2**22)]])):
        with pytest.raises(AssertionError):
            encode_block(CHECKPOINT_SEAL, 0, section, rows, final=True)
