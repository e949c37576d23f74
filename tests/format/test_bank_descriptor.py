"""The file BANK."""

import msgpack
import pytest
from blake3 import blake3
from format_cases import BANK, BANK_ID, PACK_SEAL, SALT, bank_of, ids16, numbers
from hypothesis import given
from hypothesis import strategies as st

from casbank.errors import CorruptionError, UnsupportedFormatError
from casbank.format.bank import BANK_BYTES_MAX, BankDescriptor, bank_hash, decode_bank, encode_bank
from casbank.format.header import HEADER_BYTES, Suite

banks = st.builds(
    BankDescriptor,
    bank_id=ids16,
    created_ns=numbers,
    chunking=st.text(max_size=40),
    compression=st.none() | st.integers(1, 22),
    keep_deleted_s=st.integers(0, 2**40 - 1),
    journal=st.none() | st.text(max_size=100),
    suite=st.sampled_from(Suite),
    read_only_compatible=st.integers(0, 2**32 - 1),
    collector_compatible=st.integers(0, 2**32 - 1),
)
GOOD = [1, 5, ["default"], 1, 86_400, None]


def of(**changes: object) -> bytes:
    names = ("version", "created", "profiles", "compression", "keep", "journal")
    return bank_of(msgpack.packb([changes.get(name, field) for name, field in zip(names, GOOD, strict=True)]))


@given(banks, ids16)
def test_bank_round_trips(bank: BankDescriptor, salt: bytes) -> None:
    """A bank descriptor decodes to what was encoded, and its hash is that of everything before it."""
    data = encode_bank(bank, salt)
    assert decode_bank(data) == bank
    assert bank_hash(data) == blake3(data[:-32]).digest()


def test_bank_body_is_the_documented_array() -> None:
    """The body is msgpack of ``[1, created, [profile], compression, keep, journal]``."""
    body = encode_bank(BANK, SALT)[HEADER_BYTES:-32]
    assert msgpack.unpackb(body) == [1, BANK.created_ns, ["default"], 1, 86_400, "file:///journal"]


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0])
def test_another_version_is_unsupported(version: object) -> None:
    """A descriptor of a later version asks for a later casbank, whatever its other fields are."""
    with pytest.raises(UnsupportedFormatError):
        decode_bank(bank_of(msgpack.packb([version, "anything"])))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created", -1),
        ("created", 2**63),
        ("created", True),
        ("profiles", []),
        ("profiles", ["fine", "coarse"]),
        ("profiles", [1]),
        ("profiles", "default"),
        ("compression", 0),
        ("compression", 23),
        ("compression", True),
        ("keep", -1),
        ("keep", 2**40),
        ("keep", None),
        ("journal", 5),
    ],
)
def test_impossible_fields_are_corruption(field: str, value: object) -> None:
    """A field out of its range is never taken."""
    with pytest.raises(CorruptionError):
        decode_bank(of(**{field: value}))


def test_another_kind_of_file_is_no_bank() -> None:
    """A file whose header is not of kind 7 is refused, its hash being right."""
    whole = PACK_SEAL.header_bytes + msgpack.packb(GOOD)
    with pytest.raises(CorruptionError):
        decode_bank(whole + blake3(whole).digest())


def test_long_file_is_no_bank() -> None:
    """More than 64 KiB is refused, its hash being right."""
    with pytest.raises(CorruptionError):
        decode_bank(of(journal="x" * BANK_BYTES_MAX))
    assert decode_bank(of(journal="x" * (BANK_BYTES_MAX - 300))).bank_id == BANK_ID
