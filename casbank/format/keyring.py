"""Keyrings: the secrets of a bank, sealed under its key (format, section 9).

    header 128 | sealed body | BLAKE3-256 of both

Rule 1: a keyring is never changed. A new epoch makes a new keyring, with every secret of the one before; the KEYRING
operation that names it makes it official.
Rule 2: no downgrade: the suites that the bank uses and the hash of its BANK file stand in it, where only who has the
key can write.
"""

from typing import Any, NamedTuple

from blake3 import blake3

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format import messages
from casbank.format.header import HEADER_BYTES, Suite, sequence_id
from casbank.format.seal import TAG_BYTES, FileSeal, Lane

SECRET_BYTES = 32
_VERSION = 1
_HASH_BYTES = 32
_SUITES = frozenset(Suite)
_KIND = ErrorKind.KEYRING


class EpochSecret(NamedTuple):
    """The secret of one key epoch, and when it was made."""

    number: int
    secret: bytes
    created_ns: int


class KeyringFile(NamedTuple):
    """What a keyring holds. ``number`` is that of its newest epoch; epochs are ordered by number."""

    number: int
    bank_hash: bytes
    suites: tuple[Suite, ...]
    dedup_secret: bytes
    epochs: tuple[EpochSecret, ...]


def encode_keyring(keyring: KeyringFile, seal: FileSeal) -> bytes:
    """The bytes of a keyring. The seal must be of kind KEYRING and of this number."""
    assert sequence_id(keyring.number) == seal.header.file_id
    assert len(keyring.epochs) <= limits.KEY_EPOCHS_MAX
    suites = [int(suite) for suite in keyring.suites]
    body = messages.encode(
        [_VERSION, keyring.number, keyring.bank_hash, suites, keyring.dedup_secret, [*keyring.epochs]]
    )
    whole = b"".join((seal.header_bytes, *seal.seal(Lane.BODY, 0, b"", body)))
    return whole + blake3(whole).digest()


def decode_keyring(data: bytes, seal: FileSeal) -> KeyringFile:
    """Keyring from its bytes. Raises CorruptionError (kind KEYRING or ENTRY_TAG), UnsupportedFormatError."""
    if not HEADER_BYTES + TAG_BYTES + _HASH_BYTES < len(data) <= limits.KEYRING_BYTES_MAX:
        raise CorruptionError(f"a keyring of {len(data)} bytes", kind=_KIND)
    if blake3(memoryview(data)[:-_HASH_BYTES]).digest() != data[-_HASH_BYTES:]:
        raise CorruptionError("keyring fails its hash", kind=_KIND)
    plain = seal.open(Lane.BODY, 0, b"", memoryview(data)[HEADER_BYTES:-_HASH_BYTES])
    fields = messages.decode(plain, "keyring", _KIND)
    messages.check_version(fields[0], _VERSION, "keyring")
    _refuse_unknown_suites(fields)
    try:
        keyring = _parse(*fields[1:])
    except (ValueError, TypeError) as error:
        raise CorruptionError("keyring has an impossible field", kind=_KIND) from error
    if sequence_id(keyring.number) != seal.header.file_id:
        raise CorruptionError("keyring has another number than its header", kind=_KIND)
    return keyring


def _refuse_unknown_suites(fields: list[Any]) -> None:
    suites = fields[3] if len(fields) > 3 and type(fields[3]) is list else []
    for suite in suites:
        if type(suite) is int and suite not in _SUITES:
            raise UnsupportedFormatError(f"unknown suite {suite} in a keyring")


def keyring_hash(data: bytes) -> bytes:
    """The hash at the end of a keyring's bytes."""
    return data[-_HASH_BYTES:]


def _parse(number: Any, bank_hash: Any, suites: Any, dedup_secret: Any, epochs: Any) -> KeyringFile:
    _require(_is_epoch(number) and _is_bytes(bank_hash) and _is_bytes(dedup_secret))
    _require(type(suites) is list and all(type(suite) is int for suite in suites))
    _require(type(epochs) is list and 0 < len(epochs) <= limits.KEY_EPOCHS_MAX)
    secrets = tuple(_epoch(*row) for row in epochs)
    numbers = [epoch.number for epoch in secrets]
    _require(numbers == sorted(set(numbers)) and numbers[-1] == number)
    return KeyringFile(number, bank_hash, tuple(map(Suite, suites)), dedup_secret, secrets)


def _epoch(number: Any, secret: Any, created_ns: Any) -> EpochSecret:
    _require(_is_epoch(number) and _is_bytes(secret))
    _require(type(created_ns) is int and 0 <= created_ns < 2**63)
    return EpochSecret(number, secret, created_ns)


def _is_epoch(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**32


def _is_bytes(value: Any) -> bool:
    return type(value) is bytes and len(value) == SECRET_BYTES


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("a field is out of range")


def keyring_name(number: int, entropy: bytes) -> str:
    """Where a keyring lies; random, because two clients may begin an epoch at once."""
    return f"keys/keyring-{number}-{entropy.hex()}"
