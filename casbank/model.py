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

    ``offset`` counts from the start of the pack file; ``start`` and ``raw`` are within the entry's plain bytes;
    ``ordinal`` is the chunk's number in the pack's table.
    """

    pack_number: int
    offset: int
    entry: int
    row: EntryRow
    start: int
    raw: int
    ordinal: int


class Hole(NamedTuple):
    """Bytes of an object that are lost, ``length`` of them from ``start`` on; zeros stand in their place."""

    start: int
    length: int


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
    record that put it; ``created_ns`` nanoseconds since 1970; ``removed_ns`` when it was removed or replaced, None for
    what is there.
    """

    name: str
    size: int
    etag: str
    digest: str | None
    version: int
    created_ns: int
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    removed_ns: int | None = None

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
class LeaseInfo:
    """One living lease. ``seq`` is its fencing number, ``pins`` the number of packs and names that it holds.

    ``owner`` is what its holder said of himself; ``is_owner_dead`` whether his process is known to have ended.
    """

    id: str
    seq: int
    kind: str
    owner: str
    host: str
    pid: int
    note: str
    acquired_ns: int
    expires_ns: int
    pins: int
    is_owner_dead: bool


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Whether a lease can be relied on: ``left_s`` seconds are left, negative since it expired; None if it is unknown,
    because it was released or fenced, or never was."""

    left_s: float | None

    @property
    def is_valid(self) -> bool:
        """Whether it lives and has not expired."""
        return self.left_s is not None and self.left_s > 0


@dataclass(frozen=True, slots=True)
class BlockedSpace:
    """Stored bytes that could be freed but for a lease."""

    lease: LeaseInfo
    bytes: int


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What a collection would do, and why not more; all sizes are stored bytes.

    ``reclaimable_bytes`` can be freed now, by sweeping ``sweep_packs`` and by copying ``rewrite_live_bytes`` out of
    ``rewrite_packs``; ``window_bytes`` when the undelete window of the last removed version is over, at
    ``window_until_ns`` (0: there is none); ``blocked`` is held by leases. ``dead_bytes`` is what nothing reaches,
    ``waiting_bytes`` what was swept before and waits for its readers until ``waiting_until_ns``. ``orphan_packs`` are
    left by crashes. ``expired_leases`` will be ended. ``is_idle``: nothing changed since the last collection.
    """

    version: int
    keep_deleted_s: int
    reader_grace_s: float
    live_bytes: int
    dead_bytes: int
    reclaimable_bytes: int
    sweep_packs: int
    rewrite_packs: int
    rewrite_live_bytes: int
    window_bytes: int
    window_until_ns: int
    blocked: tuple[BlockedSpace, ...]
    waiting_packs: int
    waiting_bytes: int
    waiting_until_ns: int
    orphan_packs: int
    orphan_bytes: int
    expired_leases: int
    is_idle: bool
    budget_bytes: int | None = None
    budget_s: float | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class CollectProgress:
    """How far a collection is: what it does, of how many stored bytes it has freed or copied how many."""

    step: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What a collection did; all sizes are stored bytes but ``copied_bytes``, which are plain.

    ``is_complete``: everything that the plan named was done; not if the budget was used up, or others were in the way.
    """

    swept_packs: int
    freed_bytes: int
    copied_bytes: int
    deleted_packs: int
    waiting_bytes: int
    fenced_leases: int
    forgotten_versions_until: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class LastCollection:
    """What the last collection that marked the bank left: when it ended, the stored bytes that it freed, those that
    were live and dead behind it, and whether it did all that it wanted to."""

    time_ns: int
    freed_bytes: int
    live_bytes: int
    dead_bytes: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class BankStats:
    """Sizes and counts of a bank; all sizes in bytes.

    ``logical_bytes`` is the sum of the objects' sizes, ``unique_bytes`` what is left of it after deduplication
    (chunks and manifests in live packs, plain), ``stored_bytes`` what the live packs occupy. ``last_collection`` is
    None if there was none yet.
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
    last_collection: LastCollection | None = None

    @property
    def dedup_ratio(self) -> float:
        """Logical bytes for each unique one; 1 for an empty bank."""
        return self.logical_bytes / self.unique_bytes if self.unique_bytes else 1.0

    @property
    def compression_ratio(self) -> float:
        """Unique bytes for each stored one; 1 for an empty bank."""
        return self.unique_bytes / self.stored_bytes if self.stored_bytes else 1.0
