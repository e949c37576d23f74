"""From records to rows: the same code for a record that was just written and for one that is replayed.

Rule 1: a record is applied to tables that stand on its predecessor, and never twice.
Rule 2: the tables are a function of the journal and the packs: whoever replays them gets the same rows.
Rule 3: an operation that this version cannot follow is refused; a view that skipped one would be wrong.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from casbank.errors import CasbankError, CorruptionError, ErrorKind
from casbank.format import messages
from casbank.format.descriptor import decode_descriptor
from casbank.format.header import HEADER_BYTES
from casbank.format.loss import LOST_PREFIX, NOTHING_LOST, LostEntries, lost_entries, lost_key
from casbank.format.pack import Toc, entry_offsets
from casbank.format.record import (
    NO_HASH,
    Checkpointed,
    Config,
    ConfigValue,
    Delete,
    Deleted,
    First,
    Keyring,
    Lease,
    Lost,
    Noop,
    Op,
    Packs,
    Put,
    Record,
    Release,
    Sweep,
)
from casbank.index.tables import LeaseRow, NameRow, PackRow, PinRow, State, SweptRow, Tombstone
from casbank.index.transaction import CheckpointRow, Edit
from casbank.model import Location, PackInfo

# Tombstones that are looked at together.
_STONES = 1000

EMPTY = State(0, NO_HASH, 1, 0, 0, 0, 0, 0)
"""What the tables stand on before the first record."""


FIRST_KEY = "first"
"""The configuration row that says whose journal this is: the hash of BANK in record 1."""
KEYRING_KEY = "keyring"
"""The configuration row of the official keyring, which KEYRING operations make."""
SWEPT_KEY = "swept"
"""The configuration row with the number of the last record that swept packs."""
ORPHANS_KEY = "orphans"
"""The configuration row with the newest record that swept orphans of which some are deleted, and so forgotten here."""
COLLECTED_KEY = "collected"
"""The configuration row that says when the last collection ended, and what it left."""
_RESERVED_KEYS = frozenset({FIRST_KEY, KEYRING_KEY, SWEPT_KEY, ORPHANS_KEY})
FORGOTTEN_KEY = "forgotten"
"""A CONFIG operation with this key ends the undelete window: tombstones up to that record go, but for pinned ones."""


def is_reserved(key: str) -> bool:
    """Whether no CONFIG operation may set this row."""
    return key in _RESERVED_KEYS or key.startswith(LOST_PREFIX)


class Contents(NamedTuple):
    """What a pack's own bytes say: its 128-byte header and its table of contents."""

    header: bytes
    toc: Toc


NO_CONTENTS = Contents(bytes(HEADER_BYTES), Toc([], []))
"""What counts as being in a pack whose table cannot be read."""

ContentsOf: TypeAlias = Callable[[PackInfo], Contents]
"""Finds the contents of a published pack; raises CorruptionError if it is missing or damaged."""


class Applied(NamedTuple):
    """A record with the hash and the length of its bytes, and the key epoch that it is sealed in."""

    record: Record
    hash: bytes
    length: int
    epoch: int = 0


def keyring_value(keyring: Keyring) -> bytes:
    """The official keyring as a configuration row."""
    return messages.encode([*keyring])


def official_keyring(value: ConfigValue) -> Keyring | None:
    """The official keyring from its configuration row; None in a bank that is not encrypted."""
    if not isinstance(value, bytes):
        return None
    fields = messages.decode(value, "keyring row", ErrorKind.KEYRING)
    if [type(field) for field in fields] != [int, str, bytes]:
        raise CorruptionError("the row of the keyring has an impossible field", kind=ErrorKind.KEYRING)
    return Keyring(*fields)


def check_epoch(applied: Applied, official: Keyring | None) -> None:
    """Raise CorruptionError unless a record is sealed in the epoch that the bank had reached.

    Who got hold of an older epoch's secret must not be able to write the journal on.
    """
    if official is not None and applied.epoch != official.number:
        raise CorruptionError(
            f"a record of key epoch {applied.epoch} where the bank had reached {official.number}",
            kind=ErrorKind.RECORD,
            record=applied.record.seq,
        )


def check_next_keyring(keyring: Keyring, official: Keyring | None, seq: int) -> None:
    """Raise CorruptionError unless a KEYRING operation in record ``seq`` begins the next epoch: the first in record 1,
    and none in a bank that began without."""
    follows = seq == keyring.number == 1 if official is None else keyring.number == official.number + 1
    if not follows:
        raise CorruptionError(f"key epoch {keyring.number} does not follow the one before", kind=ErrorKind.RECORD)


def apply_records(edit: Edit, records: Sequence[Applied], contents_of: ContentsOf) -> State:
    """Apply consecutive records; those that the tables have already are passed over. Returns where they stand now."""
    state = edit.state() or EMPTY
    for applied in records:
        if applied.record.seq > state.seq:
            state = _Step(edit, state, applied, contents_of).run()
    edit.put_state(state)
    return state


class _Step:
    """One record's way into the tables."""

    def __init__(self, edit: Edit, state: State, applied: Applied, contents_of: ContentsOf) -> None:
        self._edit = edit
        self._state = state
        self._applied = applied
        self._contents_of = contents_of
        # What the record adds; kept apart because every put counts.
        self._objects = 0
        self._logical_bytes = 0
        # Swept packs whose table cannot be read.
        self._unlisted: set[int] = set()

    def run(self) -> State:
        record = self._applied.record
        if record.seq != self._state.seq + 1 or record.previous != self._state.hash:
            raise CorruptionError("the journal's chain is broken", kind=ErrorKind.JOURNAL, record=record.seq)
        check_epoch(self._applied, self._keyring())
        length = self._state.journal_bytes + self._applied.length
        self._state = self._state._replace(seq=record.seq, hash=self._applied.hash, journal_bytes=length)
        for ordinal, op in enumerate(record.ops):
            self._apply(ordinal, op)
        if self._unlisted:
            self._edit.remove_chunks_of(self._unlisted)
        return self._state._replace(
            objects=self._state.objects + self._objects, logical_bytes=self._state.logical_bytes + self._logical_bytes
        )

    def _apply(self, ordinal: int, op: Op) -> None:  # noqa: C901, PLR0912 - a case for each operation
        match op:
            case Put():
                self._put(ordinal, op)
            case Delete():
                self._remove(ordinal, self._edit.delete_name(op.name.encode()))
            case Packs():
                self._publish(op)
            case Checkpointed():
                row = CheckpointRow(op.seq, op.name, op.file_hash, self._state.journal_bytes)
                self._edit.put_checkpoint(row)
            case Keyring():
                check_next_keyring(op, self._keyring(), self._state.seq)
                self._edit.put_config(KEYRING_KEY, keyring_value(op))
            case Config() if not is_reserved(op.key):
                self._edit.put_config(op.key, op.value)
                if op.key == FORGOTTEN_KEY:
                    self._forget_tombstones(op.value)
            case First() if self._state.seq == 1 and ordinal == 0:
                self._edit.put_config(FIRST_KEY, op.bank_hash)
            case Lease() | Release():
                self._change_lease(op)
            case Sweep():
                for pack_id in op.pack_ids:
                    self._sweep(pack_id)
            case Deleted():
                for pack_id in op.pack_ids:
                    self._forget_swept(pack_id)
            case Noop():
                pass
            case First() | Config():
                raise CorruptionError("an operation that does not belong here", kind=ErrorKind.RECORD)
            case Lost():
                self._lose(op)

    def _keyring(self) -> Keyring | None:
        return official_keyring(self._edit.config(KEYRING_KEY))

    def _put(self, ordinal: int, op: Put) -> None:
        row = NameRow(op.name.encode(), self._state.seq, op.descriptor)
        size = decode_descriptor(op.descriptor).size
        self._count(1, size)
        self._remove(ordinal, self._edit.put_name(row))

    def _remove(self, ordinal: int, before: NameRow | None) -> None:
        if before is None:
            return
        self._count(-1, -decode_descriptor(before.descriptor).size)
        removed_ns = self._applied.record.time_ns
        self._edit.put_tombstone(
            Tombstone(self._state.seq, ordinal, before.name, before.version, before.descriptor, removed_ns)
        )

    def _count(self, objects: int, size: int) -> None:
        self._objects += objects
        self._logical_bytes += size

    def _publish(self, op: Packs) -> None:
        for info in op.packs:
            if self._edit.pack_number(info.id) is not None:
                # Two records may name one pack: each carries PACKS for all that it relies on.
                continue
            if self._edit.swept_pack(info.id) is not None:
                raise CorruptionError("a pack that was swept is published", kind=ErrorKind.RECORD, pack=info.id)
            state = self._state
            add_pack(self._edit, state.next_pack, info, self._contents_of(info))
            self._state = state._replace(
                next_pack=state.next_pack + 1,
                unique_bytes=state.unique_bytes + info.raw,
                stored_bytes=state.stored_bytes + info.length,
            )
        if op.lease_id is not None and self._edit.lease(op.lease_id) is not None:
            for info in op.packs:
                self._edit.put_pin(PinRow(op.lease_id, self._state.seq, info.id))

    # --- what the collector does -------------------------------------------------------------------------------

    def _sweep(self, pack_id: bytes) -> None:
        number = self._edit.pack_number(pack_id)
        state = self._state
        if number is None and self._edit.swept_pack(pack_id) is not None:
            return
        length = 0
        if number is not None:
            length = self._remove_pack(number)
            self._edit.remove_config(lost_key(pack_id))
        row = SweptRow(pack_id, state.seq, self._applied.record.time_ns, length, number is None)
        self._edit.put_swept(row)
        self._edit.put_config(SWEPT_KEY, state.seq)

    def _remove_pack(self, number: int) -> int:
        """Take a live pack out of the tables; its length."""
        info = self._remove_rows(number, self._live_row(number)).info
        self._state = self._state._replace(
            unique_bytes=self._state.unique_bytes - info.raw, stored_bytes=self._state.stored_bytes - info.length
        )
        return info.length

    def _live_row(self, number: int) -> PackRow:
        row = self._edit.pack(number)
        if row is None:
            raise CorruptionError("the index lacks a pack", kind=ErrorKind.INDEX_VALUE, pack_number=number)
        return row

    def _remove_rows(self, number: int, row: PackRow) -> PackRow:
        if row.chunks:
            toc = self._table_of(row.info)
            if toc is not None and len(toc.chunks) == row.chunks:
                self._edit.remove_chunks(chunk_rows(number, toc))
            else:
                # Every row has to be looked at, once for all of the record.
                self._unlisted.add(number)
        self._edit.remove_pack(number, row.info.id)
        return row

    def _lose(self, op: Lost) -> None:
        """A pack goes on under a new number, without these entries: who relied on the old number looks again."""
        number = self._edit.pack_number(op.pack_id)
        if number is None:
            return
        key = lost_key(op.pack_id)
        info = self._remove_rows(number, self._live_row(number)).info
        # Numbers that the pack does not have would make it seem wholly lost.
        lost = lost_entries(self._edit.config(key)).joined(entry for entry in op.entries if entry < info.entries)
        add_pack(self._edit, self._state.next_pack, info, self._left_of(info), lost)
        self._edit.put_config(key, lost.encode())
        self._state = self._state._replace(next_pack=self._state.next_pack + 1)

    def _table_of(self, info: PackInfo) -> Toc | None:
        """The table of a pack that is swept; None if its file is gone already, or damaged, or cannot be read."""
        try:
            return self._contents_of(info).toc
        except CasbankError:
            return None

    def _left_of(self, info: PackInfo) -> Contents:
        """What a damaged pack still says; nothing if its table cannot be read: a repair has copied what was whole."""
        try:
            return self._contents_of(info)
        except CasbankError:
            return NO_CONTENTS

    def _forget_swept(self, pack_id: bytes) -> None:
        row = self._edit.swept_pack(pack_id)
        if row is None:
            return
        if row.is_orphan:
            before = self._edit.config(ORPHANS_KEY)
            self._edit.put_config(ORPHANS_KEY, max(row.seq, before if isinstance(before, int) else 0))
        self._edit.remove_swept(pack_id)

    def _forget_tombstones(self, until: ConfigValue) -> None:
        pinned = PinnedNames(self._edit.pins())
        after: tuple[int, int] | None = None
        while stones := self._edit.tombstones(after, _STONES):
            for stone in stones:
                if not isinstance(until, int) or stone.removed_seq > until:
                    return
                if not pinned.holds(stone.name.decode(), stone.version, stone.removed_seq):
                    self._edit.remove_tombstone(stone)
            after = stones[-1].removed_seq, stones[-1].ordinal

    # --- leases ------------------------------------------------------------------------------------------------

    def _change_lease(self, op: Lease | Release) -> None:
        if isinstance(op, Release):
            self._edit.remove_lease(op.lease_id)
            return
        before = self._edit.lease(op.lease_id)
        seq = self._state.seq
        self._edit.put_lease(renewed(op, seq, before))
        for target in op.pins:
            self._edit.put_pin(PinRow(op.lease_id, seq, target))


def renewed(op: Lease, seq: int, before: LeaseRow | None) -> LeaseRow:
    """A lease after a LEASE operation in record ``seq``: acquired, or extended."""
    if before is None:
        return LeaseRow(op.lease_id, seq, op.acquired_ns, op.expires_ns, op.owner, op.kind, op.note)
    return before._replace(expires_ns=op.expires_ns, note=op.note)


class PinnedNames:
    """Which versions living leases hold by name."""

    def __init__(self, pins: Iterable[PinRow]) -> None:
        self._seqs: dict[str, list[int]] = {}
        for pin in pins:
            if isinstance(pin.target, str):
                self._seqs.setdefault(pin.target, []).append(pin.seq)

    def __bool__(self) -> bool:
        return bool(self._seqs)

    def holds(self, name: str, version: int, removed_seq: int) -> bool:
        """Whether a pin was made while this version was the name's."""
        return any(version <= seq < removed_seq for seq in self._seqs.get(name, ()))


def add_pack(edit: Edit, number: int, info: PackInfo, contents: Contents, lost: LostEntries = NOTHING_LOST) -> None:
    """A live pack's rows."""
    edit.put_pack(number, PackRow(info, len(contents.toc.chunks), contents.header))
    edit.put_chunks(chunk_rows(number, contents.toc, lost))


def chunk_rows(number: int, toc: Toc, lost: LostEntries = NOTHING_LOST) -> list[tuple[bytes, Location]]:
    """Where each chunk of pack ``number`` is, but for those in entries that are lost."""
    offsets = entry_offsets(toc.entries)
    entries = toc.entries
    return [
        (
            chunk.id,
            Location(number, offsets[chunk.entry], chunk.entry, entries[chunk.entry], chunk.start, chunk.raw, ordinal),
        )
        for ordinal, chunk in enumerate(toc.chunks)
        if chunk.entry not in lost
    ]
