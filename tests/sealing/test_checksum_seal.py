"""Suite 0: plain bytes and a tag."""

import struct

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.header import Header, Kind, Suite, encode_header
from casbank.format.seal import TAG_BYTES, Lane
from casbank.sealing.checksum import ChecksumSealing

BANK_ID, FILE_ID, SALT = b"b" * 16, b"f" * 16, b"s" * 16
SEALING = ChecksumSealing(BANK_ID)
SEAL = SEALING.create(Kind.DATA_PACK, FILE_ID, SALT)

lanes = st.sampled_from(Lane)
counters = st.integers(0, 2**64 - 1)
extras = st.binary(max_size=20)
places = st.tuples(lanes, counters, extras)


def message(lane: Lane, counter: int, extra: bytes, plain: bytes) -> bytes:
    return b"".join(SEAL.seal(lane, counter, extra, plain))


@given(places, st.binary(max_size=300))
def test_message_round_trips(place: tuple[Lane, int, bytes], plain: bytes) -> None:
    """A message opens at its place, and is 16 bytes longer than what it holds."""
    sealed = message(*place, plain)
    assert len(sealed) == len(plain) + TAG_BYTES
    assert SEAL.open(*place, sealed) == plain
    assert SEAL.open(*place, bytearray(sealed)) == SEAL.open(*place, memoryview(sealed)) == plain


@given(places, st.binary(max_size=100))
def test_tag_is_the_documented_hash(place: tuple[Lane, int, bytes], plain: bytes) -> None:
    """The tag is BLAKE3 of header hash, lane, counter, extra and plain bytes, cut to 16 bytes."""
    lane, counter, extra = place
    covered = blake3(SEAL.header_bytes).digest() + struct.pack("<IQ", lane, counter) + extra + plain
    assert message(*place, plain) == plain + blake3(covered).digest()[:16]


@given(places, places, st.binary(max_size=50))
def test_message_opens_at_no_other_place(
    place: tuple[Lane, int, bytes], other: tuple[Lane, int, bytes], plain: bytes
) -> None:
    """A message moved to another lane, counter or row is refused."""
    if place == other:
        return
    with pytest.raises(CorruptionError) as caught:
        SEAL.open(*other, message(*place, plain))
    assert caught.value.kind is ErrorKind.ENTRY_TAG


@given(places, st.binary(max_size=50), st.data())
def test_flipped_bit_is_noticed(place: tuple[Lane, int, bytes], plain: bytes, data: st.DataObject) -> None:
    """A message with one bit flipped, in its content or its tag, is refused."""
    spoilt = bytearray(message(*place, plain))
    bit = data.draw(st.integers(0, 8 * len(spoilt) - 1))
    spoilt[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptionError):
        SEAL.open(*place, spoilt)


@pytest.mark.parametrize("length", range(17))
def test_short_message_is_corruption(length: int) -> None:
    """What is no longer than a tag, and not the tag of nothing, is refused."""
    with pytest.raises(CorruptionError):
        SEAL.open(Lane.BODY, 0, b"", bytes(length))


@pytest.mark.parametrize("kind", Kind)
def test_file_opens_by_its_header(kind: Kind) -> None:
    """A seal made from a file's header opens what the seal that wrote the file sealed."""
    writing = SEALING.create(kind, FILE_ID, SALT)
    reading = SEALING.open(writing.header_bytes + b"rest of the file", kind, FILE_ID)
    assert reading.header == writing.header
    assert reading.open(Lane.BODY, 0, b"", b"".join(writing.seal(Lane.BODY, 0, b"", b"plain"))) == b"plain"


@pytest.mark.parametrize(
    "header",
    [
        Header(Kind.META_PACK, Suite.CHECKSUM, BANK_ID, FILE_ID, SALT),
        Header(Kind.DATA_PACK, Suite.CHECKSUM, FILE_ID, FILE_ID, SALT),
        Header(Kind.DATA_PACK, Suite.CHECKSUM, BANK_ID, BANK_ID, SALT),
    ],
    ids=["kind", "bank", "file"],
)
def test_another_file_is_corruption(header: Header) -> None:
    """A file of another kind, bank or id than its name says is refused."""
    with pytest.raises(CorruptionError):
        SEALING.open(encode_header(header), Kind.DATA_PACK, FILE_ID)


@pytest.mark.parametrize("suite", [Suite.AES_256_GCM, Suite.CHACHA20_POLY1305])
def test_encrypted_file_is_unsupported(suite: Suite) -> None:
    """A file of a suite that this bank does not use is refused, before its id is looked at."""
    with pytest.raises(UnsupportedFormatError):
        SEALING.open(encode_header(Header(Kind.DATA_PACK, suite, BANK_ID, FILE_ID, SALT)), Kind.DATA_PACK, FILE_ID)


@pytest.mark.parametrize("field", ["epoch", "read_only_compatible", "collector_compatible"])
def test_tag_covers_the_whole_header(field: str) -> None:
    """A message of a file whose header was changed, check and all, is refused."""
    header = Header(Kind.DATA_PACK, Suite.CHECKSUM, BANK_ID, FILE_ID, SALT, **{field: 1})
    other = SEALING.open(encode_header(header), Kind.DATA_PACK, FILE_ID)
    with pytest.raises(CorruptionError):
        other.open(Lane.ENTRY, 0, b"", message(Lane.ENTRY, 0, b"", b"plain"))
