"""From what a person or a machine holds to the secret of a key slot (format, section 9)."""

import unicodedata

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from casbank.format.keyslot import SlotParameters, SlotSource

_SECRET_BYTES = 32
_KEY_FILE = b"casbank v1 key file"
PASSPHRASE_PARAMETERS = SlotParameters(SlotSource.PASSPHRASE, memory_kib=64 * 2**10, iterations=3, lanes=4)
"""Argon2id for new slots: the second recommended option of RFC 9106, section 4; 0.14 s on a core of 2024."""


def passphrase_secret(passphrase: str, parameters: SlotParameters, salt: bytes) -> bytes:
    """Argon2id (RFC 9106) of the passphrase in UTF-8, normalised so that all keyboards spell it alike (NFC).

    Raises MemoryError where the parameters ask for more than there is.
    """
    text = unicodedata.normalize("NFC", passphrase).encode()
    derivation = Argon2id(
        salt=salt,
        length=_SECRET_BYTES,
        iterations=parameters.iterations,
        lanes=parameters.lanes,
        memory_cost=parameters.memory_kib,
    )
    return derivation.derive(text)


def key_file_secret(content: bytes, salt: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) of a key file's bytes."""
    return HKDF(SHA256(), _SECRET_BYTES, salt, _KEY_FILE).derive(content)
