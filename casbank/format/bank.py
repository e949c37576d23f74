"""The bank descriptor, the file BANK: the first thing read (format, section 8).

    header 128 | msgpack body | BLAKE3-256 of both

Never changed after creation; its hash stands in the journal's first record. ``BANK.copy`` has the same bytes.
"""

from typing import Any, NamedTuple

from blake3 import blake3

from casbank.errors import CorruptionError, ErrorKind
from casbank.format import messages
from casbank.format.header import HEADER_BYTES, Header, Kind, Suite, decode_header, encode_header

BANK_NAME = "BANK"
BANK_COPY_NAME = "BANK.copy"
"""The same bytes once more: without BANK nothing opens."""
_VERSION = 1
_HASH_BYTES = 32
_FIELDS = 6
# A journal URL and a few numbers: more is not a bank descriptor.
BANK_BYTES_MAX = 64 * 2**10
_KIND = ErrorKind.BANK_DESCRIPTOR


class BankDescriptor(NamedTuple):
    """What a bank is created with and keeps.

    ``chunking`` is the profile's text, the first of the bank's profiles (number 0); ``compression`` a zstd level or
    None; ``journal`` its URL without credentials, or None for the store's own. The two words of flags are the header's:
    with an unknown bit in them a bank may be read but not written, or not collected.
    """

    bank_id: bytes
    created_ns: int
    chunking: str
    compression: int | None
    keep_deleted_s: int
    journal: str | None = None
    suite: Suite = Suite.CHECKSUM
    read_only_compatible: int = 0
    collector_compatible: int = 0


def encode_bank(bank: BankDescriptor, salt: bytes) -> bytes:
    """The bytes of BANK. The body is not sealed: no key can be found before it is read."""
    header = encode_header(
        Header(
            Kind.BANK,
            bank.suite,
            bank.bank_id,
            bank.bank_id,
            salt,
            read_only_compatible=bank.read_only_compatible,
            collector_compatible=bank.collector_compatible,
        )
    )
    body = messages.encode(
        [_VERSION, bank.created_ns, [bank.chunking], bank.compression, bank.keep_deleted_s, bank.journal]
    )
    whole = header + body
    return whole + blake3(whole).digest()


def bank_hash(data: bytes) -> bytes:
    """The hash at the end of BANK."""
    return data[-_HASH_BYTES:]


def decode_bank(data: bytes) -> BankDescriptor:
    """Raises CorruptionError, or UnsupportedFormatError for a bank of a later version."""
    header = decode_header(data)
    if header.kind is not Kind.BANK or header.file_id != header.bank_id:
        raise CorruptionError("BANK is another kind of file", kind=_KIND)
    if len(data) > BANK_BYTES_MAX or blake3(data[:-_HASH_BYTES]).digest() != data[-_HASH_BYTES:]:
        raise CorruptionError("BANK fails its hash", kind=_KIND)
    fields = messages.decode(data[HEADER_BYTES:-_HASH_BYTES], "BANK", _KIND)
    messages.check_version(fields[0], _VERSION, "BANK")
    if len(fields) != _FIELDS or not _plausible(*fields[1:]):
        raise CorruptionError("BANK has an impossible field", kind=_KIND)
    _, created_ns, profiles, compression, keep_deleted_s, journal = fields
    return BankDescriptor(
        header.bank_id,
        created_ns,
        profiles[0],
        compression,
        keep_deleted_s,
        journal,
        header.suite,
        header.read_only_compatible,
        header.collector_compatible,
    )


def _plausible(created_ns: Any, profiles: Any, compression: Any, keep_deleted_s: Any, journal: Any) -> bool:
    return (
        type(created_ns) is int
        and 0 <= created_ns < 2**63
        and type(profiles) is list
        and len(profiles) == 1
        and type(profiles[0]) is str
        and (compression is None or (type(compression) is int and 1 <= compression <= 22))
        and type(keep_deleted_s) is int
        and 0 <= keep_deleted_s < 2**40
        and (journal is None or type(journal) is str)
    )
