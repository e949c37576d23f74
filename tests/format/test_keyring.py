"""Keyrings: the secrets of a bank, and that nothing but a whole keyring of this bank's key is one."""

import struct
import tracemalloc
from typing import Any

import hostile
import msgpack
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from format_cases import BANK_ID, REFUSALS, SALT, checked_header, garbage, ids32, sealed
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.header import HEADER_BYTES, Header, Kind, Suite, decode_header, sequence_id
from casbank.format.keyring import (
    EpochSecret,
    KeyringFile,
    decode_keyring,
    encode_keyring,
    keyring_hash,
    keyring_name,
)
from casbank.format.seal import Lane
from casbank.sealing.aead import make_seal, open_seal

KEY, BANK_HASH, DEDUP = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
EPOCHS = (EpochSecret(1, bytes([1]) * 32, 1_700_000_000_000_000_000), EpochSecret(3, bytes([3]) * 32, 7))
KEYRING = KeyringFile(3, BANK_HASH, (Suite.AES_256_GCM,), DEDUP, EPOCHS)
ROWS: list[Any] = [[1, bytes([1]) * 32, 1_700_000_000_000_000_000], [3, bytes([3]) * 32, 7]]
FIELDS: list[Any] = [1, 3, BANK_HASH, [1], DEDUP, ROWS]


def header_of(number: int, suite: Suite = Suite.AES_256_GCM) -> Header:
    return Header(Kind.KEYRING, suite, BANK_ID, sequence_id(number), SALT)


def keyring_of(keyring: KeyringFile = KEYRING, suite: Suite = Suite.AES_256_GCM) -> bytes:
    return encode_keyring(keyring, make_seal(KEY, header_of(keyring.number, suite)))


def behind(body: bytes, number: int = 3) -> bytes:
    """A keyring with any body, correct tag and hash."""
    seal = make_seal(KEY, header_of(number))
    whole = seal.header_bytes + sealed(seal, Lane.BODY, 0, b"", body)
    return whole + blake3(whole).digest()


def read(data: bytes) -> KeyringFile:
    """As the engine does: by the header that is in the bytes, once it is known to be of one of the ciphers."""
    header = decode_header(data)
    seal = None if header.suite is Suite.CHECKSUM else open_seal([KEY], header, data)
    if seal is None:
        raise CorruptionError("of another key")
    return decode_keyring(data, seal)


def refused(data: bytes) -> bool:
    try:
        read(data)
    except REFUSALS:
        return True
    return False


epochs = st.lists(
    st.builds(EpochSecret, st.integers(1, 2**32 - 1), ids32, st.integers(0, 2**63 - 1)),
    min_size=1,
    max_size=20,
    unique_by=lambda epoch: epoch.number,
).map(lambda rows: tuple(sorted(rows)))


@given(epochs, ids32, ids32, st.lists(st.sampled_from([Suite.AES_256_GCM, Suite.CHACHA20_POLY1305]), max_size=2))
def test_keyring_round_trips(rows: tuple[EpochSecret, ...], bank: bytes, dedup: bytes, suites: list[Suite]) -> None:
    """A keyring says what it was made of, for either suite."""
    keyring = KeyringFile(rows[-1].number, bank, tuple(suites), dedup, rows)
    for suite in (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305):
        data = keyring_of(keyring, suite)
        assert read(data) == keyring
        assert keyring_hash(data) == blake3(data[:-32]).digest()


def test_largest_keyring_round_trips() -> None:
    """A keyring of as many epochs as there can be is within the bounds of its file, and is read."""
    rows = tuple(EpochSecret(2**31 + number, bytes(32), 2**63 - 1) for number in range(limits.KEY_EPOCHS_MAX))
    keyring = KeyringFile(rows[-1].number, BANK_HASH, (Suite.AES_256_GCM,), DEDUP, rows)
    data = keyring_of(keyring)
    assert len(data) <= limits.KEYRING_BYTES_MAX
    assert read(data) == keyring


@pytest.mark.parametrize(
    ("suite", "cipher"), [(Suite.AES_256_GCM, AESGCM), (Suite.CHACHA20_POLY1305, ChaCha20Poly1305)]
)
def test_keyring_is_the_documented_bytes(suite: Suite, cipher: Any) -> None:
    """Header, body sealed under the bank's key by the documented cipher, BLAKE3 of both: read by hand."""
    data = keyring_of(suite=suite)
    head, message, check = data[:128], data[128:-32], data[-32:]
    assert check == blake3(data[:-32]).digest()
    number = bytes(8) + struct.pack(">Q", 3)
    both = blake3(KEY + BANK_ID + number + SALT, derive_key_context="casbank v1 file").digest(64)
    assert head[32:48] == number
    assert head[80:112] == both[32:]
    nonce = struct.pack("<IQ", 3, 0)
    plain = cipher(both[:32]).decrypt(nonce, message, blake3(head).digest() + nonce)
    assert msgpack.unpackb(plain) == FIELDS


def test_name_tells_the_number() -> None:
    """Two clients that begin one epoch at once use two names."""
    assert keyring_name(12, b"\1\2") == "keys/keyring-12-0102"


# --- damage ----------------------------------------------------------------------------------------------------------


def test_flipped_bits_are_refused() -> None:
    """A keyring with any one bit flipped is refused."""
    good = keyring_of()
    for bit in range(8 * len(good)):
        spoilt = bytearray(good)
        spoilt[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(spoilt)), bit


def test_flipped_bits_with_mended_hashes_are_refused() -> None:
    """Mending both hashes, which need no key, does not help: the tag covers header and body."""
    good = keyring_of()
    for bit in (bit for bit in range(8 * (len(good) - 32)) if not 120 <= bit // 8 < HEADER_BYTES):
        spoilt = bytearray(good[:-32])
        spoilt[bit // 8] ^= 1 << bit % 8
        spoilt[:HEADER_BYTES] = checked_header(bytes(spoilt[:120]))
        whole = bytes(spoilt)
        assert refused(whole + blake3(whole).digest()), bit


def test_truncated_and_longer_keyrings_are_refused() -> None:
    """A keyring cut anywhere, or with a byte more, is refused."""
    good = keyring_of()
    assert not refused(good)
    assert all(refused(good[:length]) for length in range(len(good)))
    assert refused(good + b"\0")


def test_keyring_of_another_number_is_refused() -> None:
    """A keyring whose body has another number than its header is damage."""
    assert not refused(behind(msgpack.packb(FIELDS), 3))
    with pytest.raises(CorruptionError) as caught:
        read(behind(msgpack.packb(FIELDS), 4))
    assert caught.value.kind is ErrorKind.KEYRING


# --- hostile bytes behind correct tags -------------------------------------------------------------------------------

_ROW = [3, bytes(32), 7]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *((at, value) for at in (2, 4) for value in (b"", bytes(31), bytes(33), "x" * 32, None, 5)),
        *((1, value) for value in (0, -1, 2, 4, 2**32, True, 3.0, "3", None, [])),
        *((3, value) for value in (None, 1, b"1", {}, [True], [1.0], ["1"], [None])),
        *((5, value) for value in (None, 1, {}, [], b"123", "123", [[]], [5], ["abc"], [None])),
        (5, [_ROW, _ROW]),
        (5, [_ROW, [2, bytes(32), 7]]),
        (5, [[4, bytes(32), 7], _ROW]),
        (5, [[0, bytes(32), 7], _ROW]),
        (5, [_ROW, [2**32, bytes(32), 7]]),
        (5, [[True, bytes(32), 7], _ROW]),
        (5, [[3, bytes(31), 7]]),
        (5, [[3, "x" * 32, 7]]),
        (5, [[3, bytes(32), -1]]),
        (5, [[3, bytes(32), 2**63]]),
        (5, [[3, bytes(32), 1.5]]),
        (5, [[3, bytes(32)]]),
        (5, [[3, bytes(32), 7, 7]]),
        (5, [{"number": 3}]),
        (5, [[number, bytes(32), 7] for number in range(1, limits.KEY_EPOCHS_MAX + 2)]),
    ],
)
def test_impossible_field_is_corruption(at: int, value: object) -> None:
    """A field out of its range or of another type is refused, whoever sealed it."""
    fields = [*FIELDS]
    fields[at] = value
    with pytest.raises(CorruptionError):
        read(behind(msgpack.packb(fields)))


@pytest.mark.parametrize("suite", [-1, 3, 9])
def test_unknown_suite_is_unsupported(suite: int) -> None:
    """A later version may have suites that this one does not know."""
    fields = list(FIELDS)
    fields[3] = [suite]
    with pytest.raises(UnsupportedFormatError):
        read(behind(msgpack.packb(fields)))


@pytest.mark.parametrize("count", [0, 1, 2, 5, 7])
def test_other_number_of_fields_is_corruption(count: int) -> None:
    """A body with a field too many or too few is refused."""
    with pytest.raises(CorruptionError):
        read(behind(msgpack.packb([*FIELDS, 0][:count])))


@pytest.mark.parametrize("version", [0, 2, True, 1.0, "1", None])
def test_later_version_is_unsupported(version: object) -> None:
    """A version that is not known is refused as that."""
    with pytest.raises(UnsupportedFormatError):
        read(behind(msgpack.packb([version, *FIELDS[1:]])))


@given(garbage)
def test_garbage_is_refused(body: bytes) -> None:
    """A body of any bytes that somebody sealed correctly is refused, or decodes."""
    refused(behind(body))


@given(st.binary(max_size=500))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Random bytes, behind a good header or not, are refused."""
    assert refused(data)
    assert refused(keyring_of()[:HEADER_BYTES] + data)


@given(st.data())
def test_well_sealed_mutations_decode_or_are_refused(data: st.DataObject) -> None:
    """A good body with a few bytes changed, sealed again, decodes to ordered epochs or is refused."""
    body = bytearray(msgpack.packb(FIELDS))
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[at] = data.draw(st.integers(0, 255))
    try:
        keyring = read(behind(bytes(body)))
    except REFUSALS:
        return
    numbers = [epoch.number for epoch in keyring.epochs]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == keyring.number == 3


# Where a list may be long; elsewhere a million lists take as long, and show no more.
@pytest.mark.parametrize(
    ("before", "claim"),
    [
        pytest.param(before, claim, id=f"{where}-{claim}", marks=slow)
        for where, before in {"all": b"", "first": b"\x96\x01", "epochs": msgpack.packb([*FIELDS[:5], 0])[:-1]}.items()
        for claim in hostile._CLAIMS
        for slow in [[pytest.mark.slow] if "many empty" in claim and where != "epochs" else []]
    ],
)
def test_claimed_lengths_allocate_nothing(before: bytes, claim: str) -> None:
    """A length that a keyring's body claims allocates little, and ends in a refusal. A list of a million empty lists
    is no claim but what 1 MiB can say; only who has the bank's key could have sealed it."""
    data = behind((before + hostile._CLAIMS[claim])[: limits.KEYRING_BYTES_MAX - 300])
    seal = open_seal([KEY], decode_header(data), data)
    assert seal is not None
    tracemalloc.start()
    try:
        with pytest.raises(REFUSALS):
            decode_keyring(data, seal)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < hostile.MEMORY_BYTES_MAX * (2 if "many empty" in claim else 1)


def test_large_file_is_refused() -> None:
    """What is longer than any keyring is refused before it is hashed or opened."""
    with pytest.raises(CorruptionError):
        read(behind(bytes(limits.KEYRING_BYTES_MAX)))
