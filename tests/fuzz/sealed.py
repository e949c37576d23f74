"""Fuzzed bytes behind right hashes and tags: without these the fuzzer would never get past the door.

What tests/format/format_cases.py does not have: files with fuzzed headers, key slots, keyrings, recovery texts.
"""

from base64 import b64encode

from blake3 import blake3
from format_cases import PACK_ID, SALT, SEALING, SEQ, checked_header, sealed

from casbank.format.header import HEADER_BYTES, Kind, sequence_id
from casbank.format.seal import Lane

KEY = bytes(range(64, 96))
SLOT_SEAL = SEALING.create(Kind.KEY_SLOT, PACK_ID, SALT)
KEYRING_SEAL = SEALING.create(Kind.KEYRING, sequence_id(SEQ), SALT)


def hashed(data: bytes) -> bytes:
    """Any bytes and their BLAKE3-256."""
    return data + blake3(data).digest()


def mended(data: bytes) -> bytes:
    """A file as it is but for its two hashes: that in the header, and that at the end."""
    return hashed(checked_header(data) + data[HEADER_BYTES:-32])


def slot_of(body: bytes) -> bytes:
    """A key slot with any body, a key behind a right tag, a right hash."""
    return hashed(SLOT_SEAL.header_bytes + body + sealed(SLOT_SEAL, Lane.BODY, 0, body, KEY))


def keyring_of(plain: bytes) -> bytes:
    """A keyring with any body, right tag and hash."""
    return hashed(KEYRING_SEAL.header_bytes + sealed(KEYRING_SEAL, Lane.BODY, 0, b"", plain))


def recovery_of(body: bytes) -> str:
    """A recovery text with any body and a right check."""
    coded = b64encode(body + blake3(body).digest(8)).decode()
    return f"-----BEGIN CASBANK RECOVERY KEY-----{coded}-----END CASBANK RECOVERY KEY-----"
