"""Key slots: files that give the bank's key to who holds a passphrase, a key file or a command (format, section 9).

    header 128 | msgpack body | the wrapped key, a message of 32 plain bytes | BLAKE3-256 of all before

Rule 1: the body is in clear, because it says how to find the key that opens the rest; the message's tag covers it.
Rule 2: what a slot asks for is compared with bounds before any work: its writer may be hostile.
The header's salt is also the salt of the derivation, and its commitment tells a wrong secret before anything is opened.
"""

from enum import IntEnum
from typing import Any, NamedTuple

from blake3 import blake3

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format import messages
from casbank.format.header import HEADER_BYTES, Header, Kind, decode_header
from casbank.format.seal import TAG_BYTES, FileSeal, Lane

KEY_BYTES = 32
_VERSION = 1
_FIELDS = 8
_HASH_BYTES = 32
_WRAPPED_BYTES = KEY_BYTES + TAG_BYTES
_KIND = ErrorKind.KEY_SLOT


class SlotSource(IntEnum):
    """Where the secret comes from that opens a slot."""

    PASSPHRASE = 1
    KEY_FILE = 2
    COMMAND = 3


class SlotParameters(NamedTuple):
    """How the secret is found.

    ``memory_kib``, ``iterations`` and ``lanes`` are Argon2id's (RFC 9106), zero for other sources; ``token`` is what
    the command gave when it wrapped the secret, empty for other sources.
    """

    source: SlotSource
    memory_kib: int = 0
    iterations: int = 0
    lanes: int = 0
    token: bytes = b""


class KeySlot(NamedTuple):
    """One slot file, its wrapped key still closed."""

    header: Header
    header_bytes: bytes
    parameters: SlotParameters
    created_ns: int
    label: str
    body: bytes
    wrapped: bytes

    @property
    def id(self) -> bytes:
        """16 bytes; the file's name has them in hex."""
        return self.header.file_id


def encode_key_slot(parameters: SlotParameters, created_ns: int, label: str, key: bytes, seal: FileSeal) -> bytes:
    """The bytes of a slot. The seal must be of kind KEY_SLOT, under the secret that the parameters lead to."""
    body = messages.encode([_VERSION, *parameters, created_ns, label])
    whole = b"".join((seal.header_bytes, body, *seal.seal(Lane.BODY, 0, body, key)))
    return whole + blake3(whole).digest()


def decode_key_slot(data: bytes) -> KeySlot:
    """Slot from its bytes; :func:`open_key` opens it.

    Raises CorruptionError (kind KEY_SLOT) for damage and for a derivation beyond the bounds, UnsupportedFormatError for
    what a later version wrote.
    """
    header = decode_header(data)
    if header.kind is not Kind.KEY_SLOT:
        raise CorruptionError("a key slot is another kind of file", kind=_KIND)
    ends = HEADER_BYTES, len(data) - _HASH_BYTES - _WRAPPED_BYTES, len(data) - _HASH_BYTES
    if not ends[0] < ends[1] or len(data) > limits.KEY_SLOT_BYTES_MAX:
        raise CorruptionError(f"a key slot of {len(data)} bytes", kind=_KIND)
    if blake3(memoryview(data)[: ends[2]]).digest() != data[ends[2] :]:
        raise CorruptionError("a key slot fails its hash", kind=_KIND)
    body = data[ends[0] : ends[1]]
    fields = messages.decode(body, "key slot", _KIND)
    messages.check_version(fields[0], _VERSION, "key slot")
    if len(fields) != _FIELDS:
        raise CorruptionError("a key slot has an impossible field", kind=_KIND)
    *derivation, created_ns, label = fields[1:]
    if type(created_ns) is not int or not 0 <= created_ns < 2**63 or not is_label(label):
        raise CorruptionError("a key slot has an impossible field", kind=_KIND)
    parameters = _parameters(*derivation)
    return KeySlot(header, data[:HEADER_BYTES], parameters, created_ns, label, body, data[ends[1] : ends[2]])


def open_key(slot: KeySlot, seal: FileSeal) -> bytes:
    """The key in a slot. CorruptionError unless every bit is as sealed."""
    return bytes(seal.open(Lane.BODY, 0, slot.body, slot.wrapped))


def _parameters(source: Any, memory_kib: Any, iterations: Any, lanes: Any, token: Any) -> SlotParameters:
    if type(source) is not int or any(type(number) is not int for number in (memory_kib, iterations, lanes)):
        raise CorruptionError("a key slot has an impossible field", kind=_KIND)
    try:
        known = SlotSource(source)
    except ValueError:
        raise UnsupportedFormatError(f"unknown source {source} of a key slot") from None
    if type(token) is not bytes or len(token) > limits.KEY_TOKEN_BYTES_MAX:
        raise CorruptionError("a key slot has an impossible field", kind=_KIND)
    if known is SlotSource.PASSPHRASE and not _is_affordable(memory_kib, iterations, lanes):
        raise CorruptionError(
            f"a key slot asks for {memory_kib} KiB, {iterations} passes and {lanes} lanes of Argon2id", kind=_KIND
        )
    return SlotParameters(known, memory_kib, iterations, lanes, token)


def _is_affordable(memory_kib: int, iterations: int, lanes: int) -> bool:
    # RFC 9106, section 3.1: at least 8 KiB a lane.
    return (
        1 <= lanes <= limits.ARGON2_LANES_MAX
        and 8 * lanes <= memory_kib <= limits.ARGON2_MEMORY_KIB_MAX
        and 1 <= iterations <= limits.ARGON2_ITERATIONS_MAX
    )


def is_label(value: Any) -> bool:
    """Whether this can be a slot's label: it is shown on terminals, and whoever can write the store can write one."""
    return type(value) is str and value.isprintable() and len(value.encode()) <= limits.KEY_LABEL_BYTES_MAX


def key_slot_name(slot_id: bytes) -> str:
    """Where a slot lies in the store."""
    return f"keys/{slot_id.hex()}"
