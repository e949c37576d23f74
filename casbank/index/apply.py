"""From records to rows: the same code for a record that was just written and for one that is replayed.

Rule 1: a record is applied to tables that stand on its predecessor, and never twice.
Rule 2: the tables are a function of the journal and the packs: whoever replays them gets the same rows.
Rule 3: an operation that this version cannot follow is refused; a view that skipped one would be wrong.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.format import messages
from casbank.format.descriptor import decode_descriptor
from casbank.format.pack import Toc, entry_offsets
from casbank.format.record import (
    NO_HASH,
    Checkpointed,
    Config,
    Delete,
    First,
    Keyring,
    Noop,
    Op,
    Packs,
    Put,
    Record,
)
from casbank.index.tables import NameRow, PackRow, State, Tombstone
from casbank.index.transaction import CheckpointRow, ConfigValue, Edit
from casbank.model import Location, PackInfo

EMPTY = State(0, NO_HASH, 1, 0, 0, 0, 0, 0)
"""What the tables stand on before the first record."""


FIRST_KEY = "first"
"""The configuration row that says whose journal this is: the hash of BANK in record 1."""
KEYRING_KEY = "keyring"
"""The configuration row of the official keyring, which KEYRING operations make."""
RESERVED_KEYS = frozenset({FIRST_KEY, KEYRING_KEY})
"""Configuration that no CONFIG operation may set."""


class Contents(NamedTuple):
    """What a pack's own bytes say: its 128-byte header and its table of contents."""

    header: bytes
    toc: Toc


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

    def run(self) -> State:
        record = self._applied.record
        if record.seq != self._state.seq + 1 or record.previous != self._state.hash:
            raise CorruptionError("the journal's chain is broken", kind=ErrorKind.JOURNAL, record=record.seq)
        check_epoch(self._applied, self._keyring())
        length = self._state.journal_bytes + self._applied.length
        self._state = self._state._replace(seq=record.seq, hash=self._applied.hash, journal_bytes=length)
        for ordinal, op in enumerate(record.ops):
            self._apply(ordinal, op)
        return self._state._replace(
            objects=self._state.objects + self._objects, logical_bytes=self._state.logical_bytes + self._logical_bytes
        )

    def _apply(self, ordinal: int, op: Op) -> None:
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
            case Config() if op.key not in RESERVED_KEYS:
                self._edit.put_config(op.key, op.value)
            case First() if self._state.seq == 1 and ordinal == 0:
                self._edit.put_config(FIRST_KEY, op.bank_hash)
            case Noop():
                pass
            case First() | Config():
                raise CorruptionError("an operation that does not belong here", kind=ErrorKind.RECORD)
            case _:
                raise UnsupportedFormatError(
                    f"record {self._state.seq} has an operation {type(op).__name__.upper()} "
                    "that this casbank cannot follow"
                )

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
            if self._edit.has_pack(info.id):
                # Two records may name one pack: each carries PACKS for all that it relies on.
                continue
            state = self._state
            add_pack(self._edit, state.next_pack, info, self._contents_of(info))
            self._state = state._replace(
                next_pack=state.next_pack + 1,
                unique_bytes=state.unique_bytes + info.raw,
                stored_bytes=state.stored_bytes + info.length,
            )


def add_pack(edit: Edit, number: int, info: PackInfo, contents: Contents) -> None:
    """A live pack's rows."""
    edit.put_pack(number, PackRow(info, len(contents.toc.chunks), contents.header))
    edit.put_chunks(chunk_rows(number, contents.toc))


def chunk_rows(number: int, toc: Toc) -> list[tuple[bytes, Location]]:
    """Where each chunk of pack ``number`` is."""
    offsets = entry_offsets(toc.entries)
    entries = toc.entries
    return [
        (chunk.id, Location(number, offsets[chunk.entry], chunk.entry, entries[chunk.entry], chunk.start, chunk.raw))
        for chunk in toc.chunks
    ]
