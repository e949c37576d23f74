"""Targets for whole files: header, bank, key slot, keyring, recovery text, record, block of a checkpoint, sealing.

Each takes the bytes twice or more: as a file as they are, and as what stands in one behind right hashes and tags.
"""

from contextlib import suppress

from format_cases import (
    BLOCK_NUMBER,
    CHECKPOINT_SEAL,
    PACK_ID,
    RECORD_SEAL,
    SALT,
    SEALING,
    bank_of,
    block_of,
    checked_header,
    read_block,
    read_record,
    record_of,
    sealed,
)

from casbank.errors import CasbankError, CorruptionError
from casbank.format.bank import decode_bank, encode_bank
from casbank.format.checkpoint import BLOCK_HEAD_BYTES, encode_block
from casbank.format.header import Kind, decode_header, encode_header
from casbank.format.keyring import decode_keyring, encode_keyring
from casbank.format.keyslot import KeySlot, decode_key_slot, encode_key_slot, open_key
from casbank.format.record import encode_record
from casbank.format.recovery import decode_recovery, encode_recovery
from casbank.format.seal import Lane
from fuzz.asked import comes_back, decoded
from fuzz.sealed import KEY, KEYRING_SEAL, SLOT_SEAL, hashed, keyring_of, mended, recovery_of, slot_of


def header(data: bytes) -> None:
    """A header of any fields, its check right or not."""
    for whole in (data, checked_header(data)):
        comes_back(decode_header, encode_header, whole)


def seal(data: bytes) -> None:
    """A sealed message opens in its own place alone; bytes that nobody sealed do not open."""
    for head in (data, checked_header(data)):
        decoded(lambda whole: SEALING.open(whole, Kind.DATA_PACK, PACK_ID), head)
    lane, counter, plain = Lane(data[0] % 4 if data else 0), int.from_bytes(data[1:9]), data[9:]
    message = sealed(RECORD_SEAL, lane, counter, b"", plain)
    assert RECORD_SEAL.open(lane, counter, b"", message) == plain
    for place in ((lane, counter ^ 1, b""), (Lane((lane + 1) % 4), counter, b""), (lane, counter, b"\0")):
        with suppress(CorruptionError):
            assert RECORD_SEAL.open(*place, message) is None
    assert decoded(lambda whole: RECORD_SEAL.open(lane, counter, b"", whole), data) is None


def bank(data: bytes) -> None:
    """BANK with any header and body."""
    for whole in (data, mended(data), bank_of(data)):
        comes_back(decode_bank, lambda value: encode_bank(value, SALT), whole)


def key_slot(data: bytes) -> None:
    """A key slot with any header and body; the key in it comes out as it went in."""
    for whole in (data, mended(data), slot_of(data)):
        slot = decoded(decode_key_slot, whole)
        if slot is not None:
            again = decode_key_slot(encode_key_slot(slot.parameters, slot.created_ns, slot.label, KEY, SLOT_SEAL))
            assert _said(again) == _said(slot)
            assert open_key(again, SLOT_SEAL) == KEY


def _said(slot: KeySlot) -> tuple[object, ...]:
    return slot.parameters, slot.created_ns, slot.label


def keyring(data: bytes) -> None:
    """A keyring with any body."""
    for whole in (data, mended(data), keyring_of(data)):
        comes_back(
            lambda whole: decode_keyring(whole, SEALING.open(whole, Kind.KEYRING, KEYRING_SEAL.header.file_id)),
            lambda value: encode_keyring(value, KEYRING_SEAL),
            whole,
        )


def recovery(data: bytes) -> None:
    """Any text, and one with any body and a right check."""
    for text in (data.decode(errors="replace"), recovery_of(data)):
        comes_back(
            lambda coded: decode_recovery(coded.decode()),
            lambda value: encode_recovery(value).encode(),
            text.encode(),
            (CasbankError,),
        )


def record(data: bytes) -> None:
    """A record with any file's bytes, any body, or any frame around its body: codec, claimed length, zstd."""
    framed = hashed(RECORD_SEAL.header_bytes + sealed(RECORD_SEAL, Lane.BODY, 0, b"", data))
    for whole in (data, mended(data), framed, record_of(data)):
        comes_back(read_record, lambda value: encode_record(value, RECORD_SEAL), whole)


def block(data: bytes) -> None:
    """A checkpoint's block with any rows, or any head before them: lengths, codec, flags."""
    head, plain = data[:BLOCK_HEAD_BYTES], data[BLOCK_HEAD_BYTES:]
    framed = head + sealed(CHECKPOINT_SEAL, Lane.BODY, BLOCK_NUMBER, head, plain)
    for whole in (data, framed, block_of(data)):
        comes_back(
            read_block,
            lambda value: encode_block(CHECKPOINT_SEAL, BLOCK_NUMBER, value.section, value.rows, final=value.final),
            whole,
        )
