"""Suites 1 and 2: AES-256-GCM and ChaCha20-Poly1305, a key for each file (format, section 3).

Rule 1: no (key, nonce) pair is used twice. Keys are derived with a fresh salt for each file; the nonce is lane and
counter, and each lane's counters only rise.
Rule 2: the commitment is compared before a key is used, so a ciphertext has one key that opens it.
Rule 3: a file of a suite that the bank does not use is refused before anything behind its header is looked at.
"""

import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.header import HEADER_BYTES, Header, Kind, Suite, decode_header, encode_header
from casbank.format.seal import TAG_BYTES, FileSeal, Lane, place
from casbank.model import Buffer
from casbank.sealing.schedule import epoch_key, file_key

CIPHERS: dict[Suite, type[AESGCM] | type[ChaCha20Poly1305]] = {
    Suite.AES_256_GCM: AESGCM,
    Suite.CHACHA20_POLY1305: ChaCha20Poly1305,
}
_NONCE = struct.Struct("<IQ")


class AeadSeal:
    """Seals or opens the messages of one file."""

    __slots__ = ("_cipher", "_header_hash", "_next", "header", "header_bytes")

    def __init__(self, header: Header, header_bytes: bytes, key: bytes) -> None:
        self.header = header
        self.header_bytes = header_bytes
        self._cipher = CIPHERS[header.suite](key)
        self._header_hash = blake3(header_bytes).digest()
        self._next = [0] * len(Lane)

    def seal(self, lane: Lane, counter: int, extra: bytes, plain: Buffer) -> tuple[Buffer, bytes]:
        # Not an assert: no option of the interpreter may switch off what keeps nonces from repeating.
        if counter < self._next[lane]:
            raise ValueError("a message of this lane and counter was sealed already")
        self._next[lane] = counter + 1
        nonce = _NONCE.pack(lane, counter)
        message = self._cipher.encrypt(nonce, plain, place(self._header_hash, lane, counter, extra))
        return memoryview(message)[:-TAG_BYTES], message[-TAG_BYTES:]

    def open(self, lane: Lane, counter: int, extra: bytes, message: Buffer) -> Buffer:
        nonce = _NONCE.pack(lane, counter)
        try:
            return self._cipher.decrypt(nonce, message, place(self._header_hash, lane, counter, extra))
        except InvalidTag as error:
            raise CorruptionError("stored bytes fail their tag", kind=ErrorKind.ENTRY_TAG) from error


def make_seal(base: bytes, header: Header) -> AeadSeal:
    """Seal for a new file; the header's commitment is filled in. Its salt must never have been used before."""
    keys = file_key(base, header.bank_id, header.file_id, header.salt)
    committed = Header(
        header.kind, header.suite, header.bank_id, header.file_id, header.salt, header.epoch, keys.commitment
    )
    return AeadSeal(committed, encode_header(committed), keys.key)


def open_seal(bases: Iterable[bytes], header: Header, data: Buffer) -> AeadSeal | None:
    """Seal for reading a file whose first bytes are ``data``; None if none of the bases made it."""
    for base in bases:
        keys = file_key(base, header.bank_id, header.file_id, header.salt)
        if hmac.compare_digest(keys.commitment, header.commitment):
            return AeadSeal(header, bytes(data[:HEADER_BYTES]), keys.key)
    return None


class Epochs(Protocol):
    """Where the secrets of key epochs are found."""

    def current(self) -> tuple[int, bytes]:
        """Number and secret of the epoch in which new files are sealed."""

    def secrets(self, number: int, *, look_again: bool = False) -> Sequence[bytes]:
        """What an epoch's secret can be: more than one where a rotation lost a race, none if it is unknown.

        ``look_again``: somebody else may have begun the epoch meanwhile.
        """


@dataclass(frozen=True, slots=True)
class AeadSealing:
    """Seals for the files of one encrypted bank."""

    bank_id: bytes
    suite: Suite
    epochs: Epochs

    def create(self, kind: Kind, file_id: bytes, salt: bytes) -> FileSeal:
        number, secret = self.epochs.current()
        header = Header(kind, self.suite, self.bank_id, file_id, salt, epoch=number)
        return make_seal(epoch_key(secret, kind, self.suite), header)

    def open(self, header: Buffer, kind: Kind, file_id: bytes) -> FileSeal:
        known = decode_header(header)
        if known.suite is not self.suite:
            raise UnsupportedFormatError(
                f"a file of suite {known.suite} in a bank of suite {self.suite}: it was not written by this bank",
                file=file_id,
            )
        if (known.bank_id, known.kind, known.file_id) != (self.bank_id, kind, file_id):
            raise CorruptionError("file is not the one that its name says", kind=ErrorKind.HEADER, file=file_id)
        seal = self._opened(self.epochs.secrets(known.epoch), known, header)
        if seal is None:
            seal = self._opened(self.epochs.secrets(known.epoch, look_again=True), known, header)
        if seal is None:
            raise CorruptionError(
                f"no keyring has the key of epoch {known.epoch} that a file was sealed with",
                kind=ErrorKind.KEYRING,
                file=file_id,
            )
        return seal

    def _opened(self, secrets: Sequence[bytes], known: Header, header: Buffer) -> AeadSeal | None:
        return open_seal((epoch_key(secret, known.kind, self.suite) for secret in secrets), known, header)
