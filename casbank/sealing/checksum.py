"""Suite 0: plain bytes and a 16-byte BLAKE3 tag (format, section 3).

It finds damage and misplaced bytes; it hides nothing and stops nobody who can write the store.
"""

from dataclasses import dataclass

from blake3 import blake3

from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format.header import HEADER_BYTES, Header, Kind, Suite, decode_header, encode_header
from casbank.format.seal import TAG_BYTES, FileSeal, Lane, place
from casbank.model import Buffer


@dataclass(frozen=True, slots=True)
class ChecksumSeal:
    """Seals the messages of one file of suite 0."""

    header: Header
    header_bytes: bytes
    header_hash: bytes

    def seal(self, lane: Lane, counter: int, extra: bytes, plain: Buffer) -> tuple[Buffer, bytes]:
        return plain, self._tag(lane, counter, extra, plain)

    def open(self, lane: Lane, counter: int, extra: bytes, message: Buffer) -> Buffer:
        view = memoryview(message)
        plain = view[:-TAG_BYTES]
        if len(view) < TAG_BYTES or self._tag(lane, counter, extra, plain) != view[-TAG_BYTES:]:
            raise CorruptionError("stored bytes fail their tag", kind=ErrorKind.ENTRY_TAG)
        return plain

    def _tag(self, lane: Lane, counter: int, extra: bytes, plain: Buffer) -> bytes:
        return blake3(place(self.header_hash, lane, counter, extra)).update(plain).digest(TAG_BYTES)


@dataclass(frozen=True, slots=True)
class ChecksumSealing:
    """Seals for the files of one unencrypted bank."""

    bank_id: bytes

    def create(self, kind: Kind, file_id: bytes, salt: bytes) -> FileSeal:
        return _seal(Header(kind, Suite.CHECKSUM, self.bank_id, file_id, salt))

    def open(self, header: Buffer, kind: Kind, file_id: bytes) -> FileSeal:
        known = decode_header(header)
        if known.suite is not Suite.CHECKSUM:
            raise UnsupportedFormatError(f"a file of suite {known.suite} in an unencrypted bank")
        if (known.bank_id, known.kind, known.file_id) != (self.bank_id, kind, file_id):
            raise CorruptionError("file is not the one that its name says", kind=ErrorKind.HEADER, file=file_id)
        return ChecksumSeal(known, bytes(header[:HEADER_BYTES]), blake3(header[:HEADER_BYTES]).digest())


def _seal(header: Header) -> ChecksumSeal:
    data = encode_header(header)
    return ChecksumSeal(header, data, blake3(data).digest())
