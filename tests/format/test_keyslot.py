"""Key slots: what their bytes say, and that no bytes make more of them than a refusal."""

import struct
import tracemalloc
from typing import Any

import hostile
import msgpack
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from format_cases import BANK_ID, PACK_ID, REFUSALS, SALT, checked_header, garbage, sealed
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.header import HEADER_BYTES, Header, Kind, Suite
from casbank.format.keyslot import (
    KeySlot,
    SlotParameters,
    SlotSource,
    decode_key_slot,
    encode_key_slot,
    key_slot_name,
    open_key,
)
from casbank.format.seal import Lane
from casbank.sealing.aead import make_seal, open_seal

SECRET, KEY = bytes(range(64, 96)), bytes(range(96, 128))
PASSPHRASE = SlotParameters(SlotSource.PASSPHRASE, 64 * 1024, 3, 4)
CREATED_NS = 1_700_000_000_000_000_000
HEADER = Header(Kind.KEY_SLOT, Suite.AES_256_GCM, BANK_ID, PACK_ID, SALT)
FIELDS: list[Any] = [1, 1, 64 * 1024, 3, 4, b"", CREATED_NS, "desk"]


def slot_of(
    parameters: SlotParameters = PASSPHRASE, created_ns: int = CREATED_NS, label: str = "desk", header: Header = HEADER
) -> bytes:
    return encode_key_slot(parameters, created_ns, label, KEY, make_seal(SECRET, header))


def behind(body: bytes) -> bytes:
    """A slot with any body, correct tag and hash."""
    seal = make_seal(SECRET, HEADER)
    whole = seal.header_bytes + body + sealed(seal, Lane.BODY, 0, body, KEY)
    return whole + blake3(whole).digest()


def key_in(slot: KeySlot) -> bytes | None:
    """The key, for who has the secret; None if the commitment says that it is the wrong one.

    A slot of suite 0, which no bank with keys has, is refused before by who compares it with the bank's.
    """
    seal = None if slot.header.suite is Suite.CHECKSUM else open_seal([SECRET], slot.header, slot.header_bytes)
    return None if seal is None else open_key(slot, seal)


def outcome(data: bytes) -> bytes | None:
    """The key in these bytes; None if they are refused. Any exception but the two of a refusal passes through."""
    try:
        return key_in(decode_key_slot(data))
    except REFUSALS:
        return None


parameters = st.builds(
    lambda lanes, more, iterations, token: SlotParameters(
        SlotSource.PASSPHRASE, 8 * lanes + more, iterations, lanes, token
    ),
    st.integers(1, limits.ARGON2_LANES_MAX),
    st.integers(0, limits.ARGON2_MEMORY_KIB_MAX - 8 * limits.ARGON2_LANES_MAX),
    st.integers(1, limits.ARGON2_ITERATIONS_MAX),
    st.just(b""),
) | st.builds(
    lambda source, token: SlotParameters(source, token=token),
    st.sampled_from([SlotSource.KEY_FILE, SlotSource.COMMAND]),
    st.binary(max_size=300),
)


@given(
    parameters,
    st.integers(0, 2**63 - 1),
    st.text(st.characters(exclude_categories=["C", "Z"]), max_size=60),
    st.sampled_from([Suite.AES_256_GCM, Suite.CHACHA20_POLY1305]),
)
def test_slot_round_trips(known: SlotParameters, created_ns: int, label: str, suite: Suite) -> None:
    """A slot says what it was made with, and gives the key to who has the secret."""
    header = Header(Kind.KEY_SLOT, suite, BANK_ID, PACK_ID, SALT)
    slot = decode_key_slot(slot_of(known, created_ns, label, header))
    assert (slot.parameters, slot.created_ns, slot.label, slot.id) == (known, created_ns, label, PACK_ID)
    assert slot.header.suite is suite
    assert key_in(slot) == KEY


def test_longest_token_fits() -> None:
    """A slot with the longest token and label that are possible is within the bound of a slot's file."""
    data = slot_of(SlotParameters(SlotSource.COMMAND, token=bytes(limits.KEY_TOKEN_BYTES_MAX)), label="x" * 255)
    assert len(data) <= limits.KEY_SLOT_BYTES_MAX
    assert len(decode_key_slot(data).parameters.token) == limits.KEY_TOKEN_BYTES_MAX


@pytest.mark.parametrize(
    ("suite", "cipher"), [(Suite.AES_256_GCM, AESGCM), (Suite.CHACHA20_POLY1305, ChaCha20Poly1305)]
)
def test_slot_is_the_documented_bytes(suite: Suite, cipher: Any) -> None:
    """Header, msgpack body in clear, the key sealed by the documented cipher, BLAKE3 of all: read by hand."""
    data = slot_of(header=Header(Kind.KEY_SLOT, suite, BANK_ID, PACK_ID, SALT))
    head, body, wrapped, check = data[:128], data[128:-80], data[-80:-32], data[-32:]
    assert msgpack.unpackb(body) == FIELDS
    assert check == blake3(data[:-32]).digest()
    both = blake3(SECRET + BANK_ID + PACK_ID + SALT, derive_key_context="casbank v1 file").digest(64)
    assert head[80:112] == both[32:]
    nonce = struct.pack("<IQ", 3, 0)
    assert cipher(both[:32]).decrypt(nonce, wrapped, blake3(head).digest() + nonce + body) == KEY


def test_name_has_the_id() -> None:
    """A slot lies under its id in hex."""
    assert key_slot_name(PACK_ID) == "keys/101112131415161718191a1b1c1d1e1f"


# --- damage ----------------------------------------------------------------------------------------------------------


def test_flipped_bits_are_refused() -> None:
    """A slot with any one bit flipped is refused before a key is tried on it."""
    good = slot_of()
    for bit in range(8 * len(good)):
        spoilt = bytearray(good)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(REFUSALS):
            decode_key_slot(bytes(spoilt))


def test_flipped_bits_with_mended_hashes_give_no_key() -> None:
    """Who flips a bit and mends both hashes, which need no key, gets no key out and none in."""
    good = slot_of()
    for bit in (bit for bit in range(8 * (len(good) - 32)) if not 120 <= bit // 8 < HEADER_BYTES):
        spoilt = bytearray(good[:-32])
        spoilt[bit // 8] ^= 1 << bit % 8
        spoilt[:HEADER_BYTES] = checked_header(bytes(spoilt[:120]))
        whole = bytes(spoilt)
        assert outcome(whole + blake3(whole).digest()) is None, bit


def test_mending_is_harmless_by_itself() -> None:
    """The test above can fail: a slot that is taken apart and put together the same way gives the key."""
    good = slot_of()
    whole = checked_header(good[:120]) + good[HEADER_BYTES:-32]
    assert outcome(whole + blake3(whole).digest()) == KEY


def test_truncated_and_longer_slots_are_refused() -> None:
    """A slot cut anywhere, or with a byte more, is refused."""
    good = slot_of()
    assert all(outcome(good[:length]) is None for length in range(len(good)))
    assert outcome(good + b"\0") is None


def test_slot_of_a_secret_that_is_wrong_is_told_by_the_commitment() -> None:
    """Another secret makes no seal: nothing is opened, and nothing raised."""
    slot = decode_key_slot(slot_of())
    assert open_seal([bytes(32), KEY], slot.header, slot.header_bytes) is None


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.KEY_SLOT])
def test_another_kind_of_file_is_refused(kind: Kind) -> None:
    """A file of another kind under a slot's name is damage."""
    with pytest.raises(CorruptionError) as caught:
        decode_key_slot(slot_of(header=Header(kind, Suite.AES_256_GCM, BANK_ID, PACK_ID, SALT)))
    assert caught.value.kind is ErrorKind.KEY_SLOT


# --- hostile bytes behind correct hashes -----------------------------------------------------------------------------


def test_the_fields_that_others_spoil_are_good() -> None:
    """What the tests below change one field of is taken before."""
    assert outcome(behind(msgpack.packb(FIELDS))) == KEY


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (2, 7),  # less than 8 KiB a lane
        (2, 31),
        (2, 0),
        (2, -1),
        (2, limits.ARGON2_MEMORY_KIB_MAX + 1),
        (2, 2**64 - 1),
        (3, 0),
        (3, -1),
        (3, limits.ARGON2_ITERATIONS_MAX + 1),
        (4, 0),
        (4, -1),
        (4, limits.ARGON2_LANES_MAX + 1),
        (5, bytes(limits.KEY_TOKEN_BYTES_MAX + 1)),
        (5, "token"),
        (5, None),
        (6, -1),
        (6, 2**63),
        (6, 1.0),
        (7, b"label"),
        (7, None),
        *((at, value) for at in (1, 2, 3, 4) for value in (True, 1.0, "1", b"1", None, [], {})),
    ],
)
def test_impossible_field_is_corruption(at: int, value: object) -> None:
    """A field out of its range or of another type is refused before any work is done for it."""
    fields = [*FIELDS]
    fields[at] = value
    with pytest.raises(CorruptionError) as caught:
        decode_key_slot(behind(msgpack.packb(fields)))
    assert caught.value.kind is ErrorKind.KEY_SLOT


@pytest.mark.parametrize("count", [0, 1, 2, 7, 9])
def test_other_number_of_fields_is_corruption(count: int) -> None:
    """A body with a field too many or too few is refused."""
    with pytest.raises(CorruptionError):
        decode_key_slot(behind(msgpack.packb([*FIELDS, 0][:count])))


@pytest.mark.parametrize(("at", "value"), [(0, 0), (0, 2), (0, True), (0, "1"), (1, 0), (1, 4), (1, 2**64 - 1)])
def test_later_version_or_source_is_unsupported(at: int, value: object) -> None:
    """A version or source that is not known is refused as that, not as damage."""
    fields = [*FIELDS]
    fields[at] = value
    with pytest.raises(UnsupportedFormatError):
        decode_key_slot(behind(msgpack.packb(fields)))


def test_unpayable_derivation_of_another_source_is_never_paid() -> None:
    """Numbers for Argon2 in a slot of another source are not looked at: it does not derive."""
    fields = [1, 2, 2**40, 2**40, 2**40, b"", 0, ""]
    assert decode_key_slot(behind(msgpack.packb(fields))).parameters.source is SlotSource.KEY_FILE


@given(garbage)
def test_garbage_is_refused(body: bytes) -> None:
    """A body of any bytes, behind correct tag and hash, decodes or is refused."""
    outcome(behind(body))


@given(st.binary(max_size=500))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Random bytes, behind a good header or not, are refused."""
    assert outcome(data) is None
    assert outcome(slot_of()[:HEADER_BYTES] + data) is None


@given(st.data())
def test_well_sealed_mutations_decode_or_are_refused(data: st.DataObject) -> None:
    """A good body with a few bytes changed, behind correct tag and hash, decodes within the bounds or is refused."""
    body = bytearray(msgpack.packb(FIELDS))
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[at] = data.draw(st.integers(0, 255))
    try:
        known = decode_key_slot(behind(bytes(body))).parameters
    except REFUSALS:
        return
    if known.source is SlotSource.PASSPHRASE:
        assert 8 <= known.memory_kib <= limits.ARGON2_MEMORY_KIB_MAX
        assert 1 <= known.iterations <= limits.ARGON2_ITERATIONS_MAX
        assert 1 <= known.lanes <= limits.ARGON2_LANES_MAX


@pytest.mark.parametrize("claim", hostile._CLAIMS)
@pytest.mark.parametrize("before", [b"", b"\x98\x01", msgpack.packb(FIELDS)[:-5]], ids=["all", "first", "label"])
def test_claimed_lengths_allocate_nothing(claim: str, before: bytes) -> None:
    """A length that a slot's body claims allocates little, and ends in a refusal."""
    data = behind((before + hostile._CLAIMS[claim])[: limits.KEY_SLOT_BYTES_MAX - 300])
    tracemalloc.start()
    try:
        with pytest.raises(REFUSALS):
            decode_key_slot(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < hostile.MEMORY_BYTES_MAX


def test_large_file_is_refused() -> None:
    """What is longer than any slot is refused."""
    with pytest.raises(CorruptionError):
        decode_key_slot(behind(msgpack.packb([*FIELDS[:7], "x" * limits.KEY_SLOT_BYTES_MAX])))
