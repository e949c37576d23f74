"""Value types that more than one layer speaks of. All are frozen; none does I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes in memory. ``memoryview`` stands for one of bytes, one-dimensional and contiguous."""


class EntryType(IntEnum):
    """What an entry of a pack holds."""

    CHUNKS = 1
    LEAVES = 2
    INNER_NODES = 3


class Codec(IntEnum):
    """How an entry, a record's body or a checkpoint's block is compressed."""

    STORED = 0
    ZSTD = 1


class EntryRow(NamedTuple):
    """One row of a pack's entry table. ``stored`` counts the sealed message with its tag, ``raw`` the plain bytes."""

    type: int
    codec: int
    stored: int
    raw: int
    chunks: int


class ChunkRow(NamedTuple):
    """One row of a pack's chunk table: which entry holds the chunk, and where in the entry's plain bytes."""

    id: bytes
    entry: int
    start: int
    raw: int


class Location(NamedTuple):
    """Where a chunk or a manifest node is: enough to fetch its entry, open it and cut the chunk out.

    ``offset`` counts from the start of the pack file; ``start`` and ``raw`` are within the entry's plain bytes.
    """

    pack_number: int
    offset: int
    entry: int
    row: EntryRow
    start: int
    raw: int


class PackInfo(NamedTuple):
    """One pack as the journal names it: its id, kind (header kind 1 or 2), file length, whole-file BLAKE3, entries,
    and the plain bytes of its entries."""

    id: bytes
    kind: int
    length: int
    hash: bytes
    entries: int
    raw: int


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of one object without reading its content.

    ``size`` in bytes; ``etag`` the hex of the root id (in one bank, equal contents have equal etags); ``digest`` the
    hex of BLAKE3 over the whole content, or None if it was not asked for; ``version`` the sequence number of the
    record that put it; ``created_ns`` nanoseconds since 1970.
    """

    name: str
    size: int
    etag: str
    digest: str | None
    version: int
    created_ns: int
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)

    @property
    def created(self) -> datetime:
        """When it was put, in UTC, to the microsecond."""
        return datetime.fromtimestamp(self.created_ns / 1e9, UTC)


@dataclass(frozen=True, slots=True)
class KeySlotInfo:
    """One way to open an encrypted bank: its id in hex, ``source`` "passphrase", "key-file" or "command"."""

    id: str
    source: str
    label: str
    created_ns: int


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """One generation of secrets: new files are sealed in the current epoch; what a retired one sealed is to go."""

    number: int
    created_ns: int
    is_current: bool
    is_retired: bool


@dataclass(frozen=True, slots=True)
class BankStats:
    """Sizes and counts of a bank; all sizes in bytes.

    ``logical_bytes`` is the sum of the objects' sizes, ``unique_bytes`` what is left of it after deduplication
    (chunks and manifests in live packs, plain), ``stored_bytes`` what the live packs occupy.
    """

    bank_id: str
    format: str
    chunking: str
    compression: str
    suite: str
    created_ns: int
    keep_deleted_s: int
    objects: int
    logical_bytes: int
    unique_bytes: int
    stored_bytes: int
    packs: int
    chunks: int
    deleted_objects: int
    journal_bytes: int
    index_bytes: int
    version: int

    @property
    def dedup_ratio(self) -> float:
        """Logical bytes for each unique one; 1 for an empty bank."""
        return self.logical_bytes / self.unique_bytes if self.unique_bytes else 1.0

    @property
    def compression_ratio(self) -> float:
        """Unique bytes for each stored one; 1 for an empty bank."""
        return self.unique_bytes / self.stored_bytes if self.stored_bytes else 1.0
