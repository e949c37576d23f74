"""The 128 bytes at the start of every file."""

import struct

import pytest
from blake3 import blake3
from format_cases import BANK_ID, HEADER, PACK_ID, SALT, checked_header, ids16, ids32
from hypothesis import given
from hypothesis import strategies as st

from casbank.errors import CorruptionError, UnsupportedFormatError
from casbank.format.header import HEADER_BYTES, Header, Kind, Suite, decode_header, encode_header, sequence_id

words = st.integers(0, 2**32 - 1)
headers = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    suite=st.sampled_from(Suite),
    bank_id=ids16,
    file_id=ids16,
    salt=ids16,
    epoch=words,
    commitment=ids32,
    read_only_compatible=words,
    collector_compatible=words,
)


def changed(offset: int, value: bytes) -> bytes:
    body = bytearray(encode_header(HEADER)[:120])
    body[offset : offset + len(value)] = value
    return checked_header(bytes(body))


@given(headers, st.binary(max_size=50))
def test_header_round_trips(header: Header, behind: bytes) -> None:
    """A header decodes to what was encoded, whatever follows it in the file."""
    data = encode_header(header)
    assert len(data) == HEADER_BYTES
    assert decode_header(data + behind) == header


def test_header_lies_as_the_table_says() -> None:
    """Each field is at the offset that docs/format.md gives, little-endian."""
    header = Header(Kind.META_PACK, Suite.CHACHA20_POLY1305, BANK_ID, PACK_ID, SALT, 0x01020304, b"c" * 32, 0, 5, 6)
    data = encode_header(header)
    assert data[:8] == bytes.fromhex("894341530d0a1a0a")
    assert data[8:12] == bytes([1, 0, 2, 2])
    assert data[12:16] == bytes(4)
    assert data[16:32] == BANK_ID
    assert data[32:48] == PACK_ID
    assert data[48:52] == bytes([4, 3, 2, 1])
    assert data[52:56] == bytes([5, 0, 0, 0])
    assert data[56:64] == bytes(8)
    assert data[64:80] == SALT
    assert data[80:112] == b"c" * 32
    assert data[112:116] == bytes([6, 0, 0, 0])
    assert data[116:120] == bytes(4)
    assert data[120:] == blake3(data[:120]).digest()[:8]


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(8, b"\x00", id="major 0"),
        pytest.param(8, b"\x02", id="major 2"),
        pytest.param(10, b"\x00", id="kind 0"),
        pytest.param(10, b"\x08", id="kind 8, reserved for parity"),
        pytest.param(10, b"\xff", id="kind 255"),
        pytest.param(11, b"\x03", id="suite 3"),
        *(pytest.param(12, struct.pack("<I", 1 << bit), id=f"flag {bit}") for bit in range(32)),
    ],
)
def test_unknown_values_are_unsupported(offset: int, value: bytes) -> None:
    """A header that a later version may write is refused as such, not as damage."""
    with pytest.raises(UnsupportedFormatError):
        decode_header(changed(offset, value))


@pytest.mark.parametrize(
    ("offset", "value"), [(9, b"\xff"), (56, b"\xff" * 8), (116, b"\xff" * 4)], ids=["minor", "reserved", "reserved 2"]
)
def test_minor_version_and_reserved_bytes_are_ignored(offset: int, value: bytes) -> None:
    """What is informative or reserved does not keep a reader from the file."""
    assert decode_header(changed(offset, value)) == HEADER


def test_other_magic_is_corruption() -> None:
    """A file of something else is no casbank file, whatever its bytes claim."""
    with pytest.raises(CorruptionError):
        decode_header(changed(0, b"\x88"))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_sequence_ids_sort_as_their_numbers(one: int, other: int) -> None:
    """The file ids of records are 16 bytes and sort bytewise as the sequence numbers do."""
    assert len(sequence_id(one)) == 16
    assert (sequence_id(one) < sequence_id(other)) == (one < other)
    assert sequence_id(0x0102) == bytes(14) + b"\1\2"
