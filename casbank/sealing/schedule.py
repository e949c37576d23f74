"""Which key is derived from which (format, section 9): BLAKE3 in its key derivation mode, and nothing else.

slot secret   -> the file key of a slot                         a slot wraps the bank's key
bank key      -> the file keys of keyrings                      a keyring holds the secrets below
epoch secret  -> a key for each kind of file -> file keys       packs, records, checkpoints
dedup secret  -> keys of chunk ids and node ids, gear table     never changes
"""

from typing import NamedTuple

from blake3 import blake3

from casbank.format.header import Kind, Suite

_KEY_BYTES = 32
_FILE = "casbank v1 file"
_EPOCH = "casbank v1 epoch key"
_DOMAIN = "casbank v1 dedup domain"


class FileKey(NamedTuple):
    """What one file is sealed with: the cipher's key, and the commitment that stands in its header; 32 bytes each."""

    key: bytes
    commitment: bytes


def file_key(base: bytes, bank_id: bytes, file_id: bytes, salt: bytes) -> FileKey:
    """The key of the file with this id and salt; one for each file, whatever the base."""
    both = blake3(base + bank_id + file_id + salt, derive_key_context=_FILE).digest(2 * _KEY_BYTES)
    return FileKey(both[:_KEY_BYTES], both[_KEY_BYTES:])


def epoch_key(secret: bytes, kind: Kind, suite: Suite) -> bytes:
    """The base of the keys of all files of a kind that an epoch's secret seals."""
    return blake3(secret + bytes((kind, suite)), derive_key_context=_EPOCH).digest()


def domain_secret(shared: bytes) -> bytes:
    """The dedup secret of banks that share the bytes of a file."""
    return blake3(shared, derive_key_context=_DOMAIN).digest()
