"""Journal records and their operations."""

import struct

import msgpack
import pytest
from blake3 import blake3
from format_cases import (
    BANK_ID,
    PACK_ID,
    RECORD,
    RECORD_SEAL,
    SALT,
    SEALING,
    SEQ,
    ids16,
    ids32,
    numbers,
    read_record,
    record_of,
)
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.errors import CorruptionError, UnsupportedFormatError
from casbank.format.header import HEADER_BYTES, Kind, sequence_id
from casbank.format.messages import ARRAY_LENGTH_MAX
from casbank.format.record import (
    NO_HASH,
    Checkpointed,
    Config,
    Delete,
    Deleted,
    First,
    Keyring,
    Lease,
    Lost,
    Noop,
    Op,
    Packs,
    Put,
    Record,
    Release,
    Sweep,
    decode_record,
    encode_record,
    op_bytes,
    record_hash,
)
from casbank.model import PackInfo

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
expected = st.none() | numbers
packs = st.builds(
    PackInfo,
    ids16,
    st.integers(1, 2),
    st.integers(0, limits.PACK_BYTES_MAX),
    ids32,
    st.integers(0, limits.PACK_ENTRIES_MAX),
    numbers,
)
id_tuples = st.lists(ids16, max_size=5).map(tuple)
OPS = {
    1: st.builds(First, ids16, ids32),
    2: st.builds(Packs, st.lists(packs, max_size=4).map(tuple), st.none() | ids16),
    3: st.builds(Put, names, st.binary(max_size=300), expected),
    4: st.builds(Delete, names, expected),
    5: st.builds(Lease, ids16, texts, texts, numbers, numbers, st.lists(ids16 | names, max_size=5).map(tuple), texts),
    6: st.builds(Release, ids16, st.sampled_from(["released", "fenced"])),
    7: st.builds(Sweep, id_tuples),
    8: st.builds(Deleted, id_tuples),
    9: st.builds(Lost, ids16, st.lists(st.integers(0, limits.PACK_ENTRIES_MAX - 1), max_size=5).map(tuple)),
    10: st.builds(Checkpointed, numbers, texts, ids32),
    11: st.builds(Keyring, numbers, texts, ids32),
    12: st.builds(Config, texts, st.none() | texts | st.binary(max_size=20) | st.integers(-(2**63), 2**64 - 1)),
    13: st.just(Noop()),
}
any_op = st.one_of(*OPS.values())
op_lists = st.lists(any_op, max_size=6, unique_by=lambda op: op.name if isinstance(op, Put | Delete) else object())
records = st.builds(Record, st.just(SEQ), ids32, ids16, ids16, numbers, op_lists)


def of(*ops: object, version: object = 1, **changes: object) -> bytes:
    """A well sealed record of any operations and fields."""
    names = ("seq", "previous", "transaction", "writer", "time")
    fields = dict(zip(names, RECORD[:5], strict=True)) | changes
    return record_of(msgpack.packb([version, *fields.values(), list(ops)]))


def decoded(op: object) -> Op:
    return read_record(of(op)).ops[0]


@given(records)
def test_record_round_trips(record: Record) -> None:
    """A record decodes to what was encoded, and ends with the hash of all that is before."""
    data = encode_record(record, RECORD_SEAL)
    again = read_record(data)
    assert again[:5] == record[:5]
    assert list(again.ops) == list(record.ops)
    assert record_hash(data) == blake3(data[:-32]).digest()


@pytest.mark.parametrize("number", OPS)
@given(data=st.data())
def test_operation_is_its_number_and_fields(number: int, data: st.DataObject) -> None:
    """Each operation is the array of its number and its fields, and stays below its announced size."""
    op = data.draw(OPS[number])
    assert decoded([number, *op]) == op
    assert len(msgpack.packb([number, *op])) <= op_bytes(op)


def test_record_lies_as_the_tables_say() -> None:
    """A small record is header, frame of 8 bytes, plain msgpack, tag, hash."""
    data = encode_record(RECORD._replace(ops=[Noop()]), RECORD_SEAL)
    plain = msgpack.packb([1, SEQ, NO_HASH, bytes(16), bytes(range(16)), RECORD.time_ns, [[13]]])
    assert data[:HEADER_BYTES] == RECORD_SEAL.header_bytes
    assert data[32:48] == bytes(15) + b"\7"
    assert data[128:136] == struct.pack("<B3xI", 0, len(plain))
    assert data[136 : 136 + len(plain)] == plain
    assert len(data) == 136 + len(plain) + 16 + 32


@pytest.mark.parametrize(("descriptor_bytes", "codec"), [(100, 0), (400, 0), (600, 1)])
def test_bodies_over_512_bytes_are_compressed(descriptor_bytes: int, codec: int) -> None:
    """A body is compressed when it is larger than 512 bytes, and says so in its frame."""
    data = encode_record(RECORD._replace(ops=[Put("a", bytes(descriptor_bytes))]), RECORD_SEAL)
    assert data[128] == codec
    assert read_record(data).ops == [Put("a", bytes(descriptor_bytes))]


@pytest.mark.parametrize("number", [0, 14, 255, -1, 2**63, "3", None, True, 3.0])
def test_unknown_operation_is_unsupported(number: object) -> None:
    """An operation of a later version is refused with the record, never skipped."""
    with pytest.raises(UnsupportedFormatError):
        read_record(of([13], [number, "whatever"]))


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0])
def test_another_version_is_unsupported(version: object) -> None:
    """A record of a later version is refused as such, whatever its other fields are and however many."""
    for data in (of(version=version), record_of(msgpack.packb([version, "anything"]))):
        with pytest.raises(UnsupportedFormatError):
            read_record(data)


@pytest.mark.parametrize("codec", [2, 255])
def test_unknown_codec_is_unsupported(codec: int) -> None:
    """A codec of a later version is refused as such."""
    with pytest.raises(UnsupportedFormatError):
        read_record(record_of(b"body", codec=codec))


PACK = [PACK_ID, 1, 100, bytes(32), 3, 90]


@pytest.mark.parametrize(
    "op",
    [
        pytest.param([], id="nothing"),
        pytest.param([13, 1], id="noop with a field"),
        pytest.param([3, "a", b"d"], id="put without expected"),
        pytest.param([3, "a", b"d", 0, 0], id="put with more"),
        pytest.param([3, "", b"d", 0], id="empty name"),
        pytest.param([3, "a" * 1025, b"d", 0], id="long name"),
        pytest.param([3, "é" * 513, b"d", 0], id="name long in bytes"),
        pytest.param([3, "a\0b", b"d", 0], id="name with NUL"),
        pytest.param([3, b"a", b"d", 0], id="name of bytes"),
        pytest.param([3, "a", "d", 0], id="descriptor of text"),
        pytest.param([3, "a", b"d", -1], id="negative version"),
        pytest.param([3, "a", b"d", False], id="version false"),
        pytest.param([4, "", None], id="delete nothing"),
        pytest.param([1, bytes(15), bytes(32)], id="short bank id"),
        pytest.param([1, bytes(16), bytes(31)], id="short bank hash"),
        pytest.param([2, [[*PACK[:1], 3, *PACK[2:]]], None], id="pack kind 3"),
        pytest.param([2, [[*PACK[:1], 1.0, *PACK[2:]]], None], id="pack kind 1.0"),
        pytest.param([2, [[*PACK[:2], 2**30 + 1, *PACK[3:]]], None], id="long pack"),
        pytest.param([2, [[*PACK[:4], 2**20 + 1, 90]], None], id="many entries"),
        pytest.param([2, [PACK[:5]], None], id="short pack row"),
        pytest.param([2, [PACK_ID], None], id="pack row of bytes"),
        pytest.param([2, "", None], id="packs of text"),
        pytest.param([2, {}, None], id="packs of a map"),
        pytest.param([2, [PACK], bytes(15)], id="short lease id"),
        pytest.param([5, bytes(16), "o", "k", 1, 2, b"", "n"], id="pins of bytes"),
        pytest.param([5, bytes(16), "o", "k", 1, 2, [bytes(15)], "n"], id="short pin"),
        pytest.param([5, bytes(16), "o", "k", 1, 2, [""], "n"], id="empty pin"),
        pytest.param([5, bytes(16), "o", "k", -1, 2, [], "n"], id="negative time"),
        pytest.param([5, bytes(16), "o", 1, 1, 2, [], "n"], id="lease kind of a number"),
        pytest.param([6, bytes(16), "lost"], id="unknown reason"),
        pytest.param([6, bytes(16), ["fenced"]], id="reason in a list"),
        pytest.param([7, PACK_ID], id="sweep of one"),
        pytest.param([8, [bytes(17)]], id="long pack id"),
        pytest.param([9, PACK_ID, [True]], id="entry true"),
        pytest.param([10, 1, b"name", bytes(32)], id="checkpoint name of bytes"),
        pytest.param([11, -1, "name", bytes(32)], id="keyring -1"),
        pytest.param([12, "k", 1.5], id="config of a float"),
        pytest.param([12, "k", [1]], id="config of a list"),
        pytest.param([12, "k", {}], id="config of a map"),
        pytest.param([12, 5, "v"], id="config key of a number"),
    ],
)
def test_impossible_operation_is_corruption(op: list[object]) -> None:
    """A known operation with a field out of its range, missing or too many is refused with the record."""
    with pytest.raises(CorruptionError):
        read_record(of(op))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", SEQ + 1),
        ("seq", -1),
        ("seq", 2**63),
        ("seq", "7"),
        ("previous", bytes(31)),
        ("transaction", bytes(17)),
        ("writer", None),
        ("time", -1),
        ("time", 1.0),
    ],
)
def test_impossible_field_is_corruption(field: str, value: object) -> None:
    """A field of the record out of its range is never taken, nor another number than the header's."""
    with pytest.raises(CorruptionError):
        read_record(of([13], **{field: value}))


@pytest.mark.parametrize("second", [Put("same", b"", None), Delete("same")])
def test_a_name_occurs_once_in_a_record(second: Op) -> None:
    """A record that names an object twice would give two versions one number: refused."""
    with pytest.raises(CorruptionError):
        read_record(of([3, "same", b"", None], [3 if isinstance(second, Put) else 4, *second]))


@pytest.mark.parametrize("count", [6, 8])
def test_another_number_of_fields_is_corruption(count: int) -> None:
    """Version 1 has seven elements."""
    fields = [*RECORD[:5], [], None]
    with pytest.raises(CorruptionError):
        read_record(record_of(msgpack.packb([1, *fields][:count])))


def test_bytes_behind_the_body_are_corruption() -> None:
    """Nothing follows the body's array."""
    with pytest.raises(CorruptionError):
        read_record(record_of(msgpack.packb([1, *RECORD[:5], []]) + b"\xc0"))


def test_lists_as_long_as_they_may_be_round_trip() -> None:
    """Lists of 4,096 elements in an operation, and more operations than that, can be read back."""
    long = (Sweep((PACK_ID,) * ARRAY_LENGTH_MAX), Packs((PackInfo(*PACK),) * ARRAY_LENGTH_MAX))
    puts = [Put(f"name {number}", b"d") for number in range(ARRAY_LENGTH_MAX + 1)]
    record = RECORD._replace(ops=[*long, *puts])
    assert read_record(encode_record(record, RECORD_SEAL)).ops == record.ops


@pytest.mark.parametrize(
    "op",
    [
        Sweep((PACK_ID,) * (ARRAY_LENGTH_MAX + 1)),
        Lost(PACK_ID, tuple(range(ARRAY_LENGTH_MAX + 1))),
        Packs((PackInfo(*PACK),) * (ARRAY_LENGTH_MAX + 1)),
    ],
    ids=lambda op: type(op).__name__,
)
def test_what_could_not_be_read_is_not_written(op: Op) -> None:
    """An operation whose list is too long for the reader fails before it is sealed."""
    with pytest.raises(AssertionError):
        encode_record(RECORD._replace(ops=[op]), RECORD_SEAL)


def test_oversized_body_is_not_written() -> None:
    """A body over the limit fails before it is sealed, however well it would compress."""
    with pytest.raises(AssertionError):
        encode_record(RECORD._replace(ops=[Put("a", bytes(limits.RECORD_BYTES_MAX))]), RECORD_SEAL)


def test_record_opens_under_no_other_number_or_bank() -> None:
    """A record that was copied to another number or bank is refused."""
    data = encode_record(RECORD, RECORD_SEAL)
    with pytest.raises(CorruptionError):
        SEALING.open(data, Kind.RECORD, sequence_id(SEQ + 1))
    for other in (
        SEALING.create(Kind.RECORD, sequence_id(SEQ), BANK_ID),
        type(SEALING)(SALT).create(Kind.RECORD, sequence_id(SEQ), SALT),
    ):
        with pytest.raises(CorruptionError):
            decode_record(data, other)
