"""Suites 1 and 2: each message opens at its place alone, and no key is used before its commitment was compared."""

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.header import HEADER_BYTES, Header, Kind, Suite, encode_header
from casbank.format.seal import TAG_BYTES, FileSeal, Lane
from casbank.sealing import aead
from casbank.sealing.aead import AeadSealing, make_seal, open_seal

SUITES = [Suite.AES_256_GCM, Suite.CHACHA20_POLY1305]
PRIMITIVES: dict[Suite, Any] = {Suite.AES_256_GCM: AESGCM, Suite.CHACHA20_POLY1305: ChaCha20Poly1305}
BASE, BANK_ID, FILE_ID, SALT = bytes(range(32)), b"b" * 16, b"f" * 16, b"s" * 16
HEADER = Header(Kind.DATA_PACK, Suite.AES_256_GCM, BANK_ID, FILE_ID, SALT, epoch=5)

lanes = st.sampled_from(Lane)
counters = st.integers(0, 2**64 - 1)
places = st.tuples(lanes, counters, st.binary(max_size=20))
suites = st.sampled_from(SUITES)


class Epochs:
    """Two epochs, the second of them with a rival's secret beside the right one."""

    def __init__(self) -> None:
        self.known = {1: [b"1" * 32], 2: [b"x" * 32, b"2" * 32]}
        self.number = 1

    def current(self) -> tuple[int, bytes]:
        return self.number, self.known[self.number][-1]

    def secrets(self, number: int, *, look_again: bool = False) -> Sequence[bytes]:
        return self.known.get(number, [])


def seal_of(suite: Suite = Suite.AES_256_GCM, base: bytes = BASE) -> FileSeal:
    return make_seal(base, replace(HEADER, suite=suite))


def message(seal: FileSeal, lane: Lane, counter: int, extra: bytes, plain: bytes) -> bytes:
    return b"".join(seal.seal(lane, counter, extra, plain))


def opened(seal: FileSeal, place: tuple[Lane, int, bytes], sealed: bytes) -> bytes | None:
    try:
        return bytes(seal.open(*place, sealed))
    except CorruptionError as error:
        if error.kind is not ErrorKind.ENTRY_TAG:
            raise
        return None


# --- messages --------------------------------------------------------------------------------------------------------


@given(suites, places, st.binary(max_size=300))
def test_message_round_trips(suite: Suite, place: tuple[Lane, int, bytes], plain: bytes) -> None:
    """A message opens at its place, from any buffer, and is 16 bytes longer than what it holds."""
    seal = seal_of(suite)
    body, tag = seal.seal(*place, memoryview(plain))
    sealed = bytes(body) + tag
    assert (len(body), len(tag)) == (len(plain), TAG_BYTES)
    assert seal.open(*place, sealed) == seal.open(*place, bytearray(sealed)) == plain
    assert seal.open(*place, memoryview(sealed)) == plain


@given(suites, places, st.binary(max_size=100))
def test_message_is_the_documented_one(suite: Suite, place: tuple[Lane, int, bytes], plain: bytes) -> None:
    """Key, nonce and associated data are those of the format: computed here with the primitives alone."""
    lane, counter, extra = place
    seal = seal_of(suite)
    both = blake3(BASE + BANK_ID + FILE_ID + SALT, derive_key_context="casbank v1 file").digest(64)
    nonce = struct.pack("<IQ", lane, counter)
    covered = blake3(seal.header_bytes).digest() + nonce + extra
    assert message(seal, *place, plain) == PRIMITIVES[suite](both[:32]).encrypt(nonce, plain, covered)
    assert seal.header_bytes[80:112] == both[32:]
    assert seal.header_bytes[11] == suite == seal.header.suite


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        (Suite.AES_256_GCM, "6cfd0f2fb8f771fd7d0d7502f2701a75f23952c1cb55f8ead0dc64"),
        (Suite.CHACHA20_POLY1305, "9292925ba1e505a0309901c83c8361fa1ec923bbb6e6239af13ce8"),
    ],
)
def test_messages_never_change(suite: Suite, expected: str) -> None:
    """A fixed message is sealed as it was in the first release."""
    assert message(seal_of(suite), Lane.TOC, 1, b"extra", b"plain bytes").hex() == expected


@given(suites, places, places, st.binary(max_size=50))
def test_message_opens_at_no_other_place(
    suite: Suite, place: tuple[Lane, int, bytes], other: tuple[Lane, int, bytes], plain: bytes
) -> None:
    """A message moved to another lane or counter, or beside another extra, is refused."""
    seal = seal_of(suite)
    sealed = message(seal, *place, plain)
    assert opened(seal, place, sealed) == plain
    for wrong in {other, (other[0], *place[1:]), (place[0], other[1], place[2]), (*place[:2], other[2])} - {place}:
        assert opened(seal, wrong, sealed) is None


@pytest.mark.parametrize("suite", SUITES)
def test_neighbouring_places_are_apart(suite: Suite) -> None:
    """A message opens at none of the places that differ from its own by one step."""
    seal = seal_of(suite)
    place = (Lane.TOC, 7, b"extra")
    sealed = message(seal, *place, b"plain")
    for lane, counter, extra in [
        *((lane, 7, b"extra") for lane in Lane if lane is not Lane.TOC),
        *((Lane.TOC, counter, b"extra") for counter in (6, 8, 7 + 2**8, 7 + 2**32, 7 + 2**63)),
        *((Lane.TOC, 7, extra) for extra in (b"", b"extr", b"extra\0", b"Extra")),
    ]:
        assert opened(seal, (lane, counter, extra), sealed) is None
    assert opened(seal, place, sealed) == b"plain"


@given(suites, places, st.binary(max_size=50), st.data())
def test_flipped_bit_is_noticed(
    suite: Suite, place: tuple[Lane, int, bytes], plain: bytes, data: st.DataObject
) -> None:
    """A message with one bit flipped, or cut, or longer, is refused."""
    seal = seal_of(suite)
    sealed = message(seal, *place, plain)
    spoilt = bytearray(sealed)
    bit = data.draw(st.integers(0, 8 * len(spoilt) - 1))
    spoilt[bit // 8] ^= 1 << bit % 8
    assert opened(seal, place, bytes(spoilt)) is None
    assert opened(seal, place, sealed[: data.draw(st.integers(0, len(sealed) - 1))]) is None
    assert opened(seal, place, sealed + b"\0") is None


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("length", range(17))
def test_short_message_is_corruption(suite: Suite, length: int) -> None:
    """What is no longer than a tag is refused as damage, not by an error of the cipher's own."""
    assert opened(seal_of(suite), (Lane.BODY, 0, b""), bytes(length)) is None


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "change",
    [
        {"kind": Kind.META_PACK},
        {"epoch": 6},
        {"read_only_compatible": 1},
        {"collector_compatible": 1},
        {"incompatible": 1},
    ],
    ids=str,
)
def test_tag_covers_the_whole_header(suite: Suite, change: dict[str, Any]) -> None:
    """A message behind a header that was changed, though its key is the same, is refused."""
    seal = seal_of(suite)
    sealed = message(seal, Lane.ENTRY, 0, b"", b"plain")
    for kept in ({}, change):
        header = replace(seal.header, **kept)
        other = open_seal([BASE], header, encode_header(header))
        assert other is not None
        assert (opened(other, (Lane.ENTRY, 0, b""), sealed) is None) == bool(kept)


@pytest.mark.parametrize("change", [{"bank_id": FILE_ID}, {"file_id": SALT}, {"salt": FILE_ID}], ids=str)
def test_another_file_has_another_key(change: dict[str, bytes]) -> None:
    """A file of another bank, id or salt is not even tried with this one's key."""
    header = replace(seal_of().header, **change)  # type: ignore[arg-type]
    assert open_seal([BASE], header, encode_header(header)) is None


def test_message_of_the_other_cipher_is_refused() -> None:
    """One key, two ciphers: what one sealed the other does not open."""
    sealed = message(seal_of(Suite.AES_256_GCM), Lane.BODY, 0, b"", b"plain")
    assert opened(seal_of(Suite.CHACHA20_POLY1305), (Lane.BODY, 0, b""), sealed) is None


# --- one nonce, one message ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (2**64 - 1, 2**64 - 1), (2**64 - 1, 0)])
def test_sealing_twice_or_going_back_raises(suite: Suite, lane: Lane, first: int, second: int) -> None:
    """A counter that was used, or passed over, is never used again: nothing is sealed, and other lanes go on."""
    seal = seal_of(suite)
    sealed = message(seal, lane, first, b"", b"one")
    with pytest.raises(ValueError, match="sealed already"):
        seal.seal(lane, second, b"", b"two")
    assert opened(seal, (lane, first, b""), sealed) == b"one"
    for other in Lane:
        if other is not lane:
            message(seal, other, 0, b"", b"three")


def test_counters_rise() -> None:
    """Each lane counts for itself, and gaps are fine."""
    seal = seal_of()
    for counter in (0, 1, 5, 6, 2**40):
        for lane in Lane:
            message(seal, lane, counter, b"", b"")
    with pytest.raises(ValueError, match="sealed already"):
        seal.seal(Lane.TOC, 2**40, b"", b"")


def test_failed_sealing_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter whose cipher raised counts as used: nobody knows what it had put out."""

    class Failing:
        def __init__(self, key: bytes) -> None:
            pass

        def encrypt(self, nonce: bytes, plain: bytes, covered: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setitem(aead.CIPHERS, Suite.AES_256_GCM, Failing)
    seal = seal_of()
    with pytest.raises(MemoryError):
        seal.seal(Lane.BODY, 0, b"", b"")
    with pytest.raises(ValueError, match="sealed already"):
        seal.seal(Lane.BODY, 0, b"", b"")


# --- commitments -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_ciphers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a cipher fails the test."""

    def refuse(key: bytes) -> None:
        raise AssertionError("a cipher was made")

    for suite in SUITES:
        monkeypatch.setitem(aead.CIPHERS, suite, refuse)


def file_of(suite: Suite, *, number: int = 1, kind: Kind = Kind.DATA_PACK, file_id: bytes = FILE_ID) -> bytes:
    """A file's header, and a body that no key opens."""
    epochs = Epochs()
    epochs.number = number
    return AeadSealing(BANK_ID, suite, epochs).create(kind, file_id, SALT).header_bytes + b"no message"


FILE = file_of(Suite.AES_256_GCM)
UNKNOWN = file_of(Suite.AES_256_GCM, number=2)
OTHERS_FILE = file_of(Suite.CHACHA20_POLY1305)


def test_wrong_commitment_is_told_before_the_cipher(no_ciphers: None) -> None:
    """Bases that did not make a file are passed over without using a key."""
    header = aead.decode_header(FILE)
    assert open_seal([], header, FILE) is None
    assert open_seal([b"y" * 32, BASE], header, FILE) is None
    flipped = replace(header, commitment=bytes([header.commitment[0] ^ 1]) + header.commitment[1:])
    assert open_seal([aead.epoch_key(b"1" * 32, Kind.DATA_PACK, Suite.AES_256_GCM)], flipped, FILE) is None


def test_right_commitment_makes_the_cipher(no_ciphers: None) -> None:
    """The test above can fail."""
    with pytest.raises(AssertionError, match="a cipher was made"):
        AeadSealing(BANK_ID, Suite.AES_256_GCM, Epochs()).open(FILE, Kind.DATA_PACK, FILE_ID)


def test_file_of_an_unknown_secret_is_refused_before_the_cipher(no_ciphers: None) -> None:
    """A file whose epoch is unknown, or known with other secrets only, is refused without using a key."""
    epochs = Epochs()
    for secrets in ([], [b"x" * 32, b"z" * 32]):
        epochs.known[2] = secrets
        with pytest.raises(CorruptionError) as caught:
            AeadSealing(BANK_ID, Suite.AES_256_GCM, epochs).open(UNKNOWN, Kind.DATA_PACK, FILE_ID)
        assert caught.value.kind is ErrorKind.KEYRING


@pytest.mark.parametrize(
    ("suite", "data"),
    [
        (Suite.AES_256_GCM, OTHERS_FILE),
        (Suite.CHACHA20_POLY1305, FILE),
        *((suite, encode_header(replace(HEADER, suite=Suite.CHECKSUM))) for suite in SUITES),
    ],
)
def test_file_of_another_suite_is_refused_by_its_header(no_ciphers: None, suite: Suite, data: bytes) -> None:
    """A file of a suite that is not the bank's is refused: without its body, its id, its secret or a key being used."""

    class Untouched:
        def current(self) -> tuple[int, bytes]:
            raise AssertionError

        def secrets(self, number: int, *, look_again: bool = False) -> Sequence[bytes]:
            raise AssertionError

    for end in (HEADER_BYTES, None):
        for kind, file_id in ((Kind.DATA_PACK, FILE_ID), (Kind.RECORD, SALT)):
            with pytest.raises(UnsupportedFormatError):
                AeadSealing(BANK_ID, suite, Untouched()).open(data[:end], kind, file_id)


# --- a bank's files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("kind", [Kind.DATA_PACK, Kind.META_PACK, Kind.RECORD, Kind.CHECKPOINT])
@pytest.mark.parametrize("number", [1, 2])
def test_file_opens_by_its_header(suite: Suite, kind: Kind, number: int) -> None:
    """A file is sealed in the current epoch, says so, and opens with that epoch's secret, rivals or not."""
    epochs = Epochs()
    epochs.number = number
    sealing = AeadSealing(BANK_ID, suite, epochs)
    writing = sealing.create(kind, FILE_ID, SALT)
    assert (writing.header.epoch, writing.header.suite, writing.header.kind) == (number, suite, kind)
    sealed = message(writing, Lane.BODY, 0, b"", b"plain")
    epochs.number = 1
    reading = sealing.open(writing.header_bytes + b"rest of the file", kind, FILE_ID)
    assert reading.header == writing.header
    assert reading.open(Lane.BODY, 0, b"", sealed) == b"plain"


@pytest.mark.parametrize("suite", SUITES)
def test_epochs_kinds_and_suites_have_keys_of_their_own(suite: Suite) -> None:
    """Key of a file: derived of its epoch's secret, kind and suite, then of its ids and salt; by hand."""
    seal = AeadSealing(BANK_ID, suite, Epochs()).create(Kind.RECORD, FILE_ID, SALT)
    base = blake3(b"1" * 32 + bytes([3, suite]), derive_key_context="casbank v1 epoch key").digest()
    both = blake3(base + BANK_ID + FILE_ID + SALT, derive_key_context="casbank v1 file").digest(64)
    nonce = struct.pack("<IQ", 3, 0)
    covered = blake3(seal.header_bytes).digest() + nonce
    assert seal.header.commitment == both[32:]
    assert PRIMITIVES[suite](both[:32]).decrypt(nonce, message(seal, Lane.BODY, 0, b"", b"plain"), covered) == b"plain"


@pytest.mark.parametrize(
    ("bank_id", "kind", "file_id"),
    [(FILE_ID, Kind.DATA_PACK, FILE_ID), (BANK_ID, Kind.META_PACK, FILE_ID), (BANK_ID, Kind.DATA_PACK, SALT)],
    ids=["bank", "kind", "file"],
)
def test_another_file_is_corruption(bank_id: bytes, kind: Kind, file_id: bytes) -> None:
    """A file of another bank, kind or id than its name says is refused."""
    with pytest.raises(CorruptionError) as caught:
        AeadSealing(bank_id, Suite.AES_256_GCM, Epochs()).open(FILE, kind, file_id)
    assert caught.value.kind is ErrorKind.HEADER
