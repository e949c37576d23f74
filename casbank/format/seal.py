"""What the formats ask of sealing: one file's messages, each bound to its place (format, section 3).

A message is the (en)sealed plain bytes and a 16-byte tag. The tag covers the file's header, the lane, the counter and
what the place adds, so no message can be moved to another place or file. ``casbank.sealing`` implements this.
"""

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol, TypeAlias

from casbank.format.header import Header, Kind
from casbank.model import Buffer

TAG_BYTES = 16
_PLACE = struct.Struct("<IQ")


class Lane(IntEnum):
    """The part of a file that a message is in; with the counter it makes the nonce."""

    ENTRY = 0
    TOC = 1
    TRAILER = 2
    BODY = 3


class FileSeal(Protocol):
    """Seals or opens the messages of one file.

    A file that failed or was abandoned MUST NOT be continued: make a new seal, with a new id and salt.
    """

    @property
    def header(self) -> Header:
        """The file's header."""

    @property
    def header_bytes(self) -> bytes:
        """Its 128 bytes."""

    def seal(self, lane: Lane, counter: int, extra: bytes, plain: Buffer) -> tuple[Buffer, bytes]:
        """The two parts of a message: the sealed bytes (as long as ``plain``) and the tag of 16 bytes.

        MUST be called at most once for a (lane, counter).
        """

    def open(self, lane: Lane, counter: int, extra: bytes, message: Buffer) -> Buffer:
        """Plain bytes of a message. MUST raise CorruptionError(kind=ENTRY_TAG) unless every bit is as sealed."""


class Sealing(Protocol):
    """Makes the seals of a bank's files: the place where suites and keys are known."""

    def create(self, kind: Kind, file_id: bytes, salt: bytes) -> FileSeal:
        """Seal for a file that does not exist yet."""

    def open(self, header: Buffer, kind: Kind, file_id: bytes) -> FileSeal:
        """Seal for reading a file with this header.

        MUST raise CorruptionError unless the header is of that kind and id and of this bank, and
        UnsupportedFormatError for a suite that the bank does not allow.
        """


IdOf: TypeAlias = Callable[[Buffer], bytes]
"""From plain bytes to their 32-byte id."""


def place(header_hash: bytes, lane: Lane, counter: int, extra: bytes) -> bytes:
    """The associated data of a message."""
    return header_hash + _PLACE.pack(lane, counter) + extra
