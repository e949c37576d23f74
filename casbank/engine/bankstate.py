"""What the journal says of a bank beside its names: live and swept packs, leases, configuration.

Rule (T): this comes from the newest checkpoint and the records since, never from the index: a row that is missing there
must not free anything. Checkpoints are made of it, and collections are judged by it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from casbank.errors import CorruptionError, ErrorKind
from casbank.format.checkpoint import Block, Section
from casbank.format.loss import LostEntries, incomplete_key, lost_entries, lost_key
from casbank.format.messages import ARRAY_LENGTH_MAX
from casbank.format.record import (
    Config,
    Deleted,
    First,
    Keyring,
    Lease,
    Lost,
    Op,
    Packs,
    Record,
    Release,
    Sweep,
    pack_info,
)
from casbank.index.apply import (
    EMPTY,
    FIRST_KEY,
    FORGOTTEN_KEY,
    KEYRING_KEY,
    ORPHANS_KEY,
    SWEPT_KEY,
    Applied,
    PinnedNames,
    check_epoch,
    check_next_keyring,
    is_reserved,
    keyring_value,
    official_keyring,
    renewed,
)
from casbank.index.tables import LeaseRow, PinRow, State, SweptRow
from casbank.model import PackInfo

Row = list[Any]


class LivePack(NamedTuple):
    """A live pack and its number."""

    number: int
    info: PackInfo


class Forgetting(NamedTuple):
    """Tombstones up to a record went, but for those that were pinned then."""

    until: int
    pinned: PinnedNames

    def takes(self, name: str, version: int, removed_seq: int) -> bool:
        """Whether the tombstone of a version is gone."""
        return removed_seq <= self.until and not self.pinned.holds(name, version, removed_seq)


class BankState:
    """The state up to ``state.seq``; apply records one by one."""

    def __init__(self) -> None:
        self.state = EMPTY
        self.config: dict[str, Any] = {}
        self.packs: dict[bytes, LivePack] = {}
        self.leases: dict[bytes, LeaseRow] = {}
        self.pins: dict[bytes, dict[bytes | str, int]] = {}
        self.swept: dict[bytes, SweptRow] = {}
        self.forgettings: list[Forgetting] = []

    def load(self, block: Block) -> None:
        """Take a block of a checkpoint."""
        match block.section:
            case Section.PACKS:
                for number, *fields in block.rows:
                    info = _checked_info(fields)
                    self.packs[info.id] = LivePack(number, info)
            case Section.CONFIG:
                self.config.update((key, value) for key, value in block.rows)
            case Section.LEASES:
                for *fields, pins in block.rows:
                    row = LeaseRow(*fields)
                    self.leases[row.id] = row
                    self.pins.setdefault(row.id, {}).update((target, seq) for target, seq in pins)
            case Section.SWEPT:
                self.swept.update((row[0], _swept(*row)) for row in block.rows)
            case Section.STATE:
                self.state = State(*block.rows[-1])

    def apply(self, applied: Applied) -> None:
        """Take the next record, all but what it does to names. CorruptionError if it does not follow."""
        record, state = applied.record, self.state
        if record.seq != state.seq + 1 or record.previous != state.hash:
            raise CorruptionError("the journal's chain is broken", kind=ErrorKind.JOURNAL, record=record.seq)
        check_epoch(applied, self.keyring())
        journal_bytes = state.journal_bytes + applied.length
        self.state = state._replace(seq=record.seq, hash=applied.hash, journal_bytes=journal_bytes)
        for op in record.ops:
            self._apply(record, op)

    def skip_to(self, seq: int, record_hash: bytes) -> None:
        """For salvage: go on behind record ``seq``, although nobody knows what was before it."""
        self.state = self.state._replace(seq=seq, hash=record_hash)

    def adopt(self, info: PackInfo) -> None:
        """For salvage: a pack of which no record that is left says whether it is live."""
        if info.id not in self.packs:
            self.swept.pop(info.id, None)
            self._add_pack(info)

    def reach_epoch(self, keyring: Keyring) -> None:
        """For salvage: records are sealed in an epoch whose beginning was lost."""
        self.config[KEYRING_KEY] = keyring_value(keyring)

    def keyring(self) -> Keyring | None:
        """The official keyring; None in a bank that is not encrypted."""
        return official_keyring(self.config.get(KEYRING_KEY))

    def end_lease(self, lease_id: bytes) -> None:
        """A lease, and all it holds, is gone."""
        self.leases.pop(lease_id, None)
        self.pins.pop(lease_id, None)

    def living_pins(self) -> Iterator[PinRow]:
        """What living leases hold."""
        for lease_id, held in self.pins.items():
            for target, seq in held.items():
                yield PinRow(lease_id, seq, target)

    def lost(self, pack_id: bytes) -> LostEntries:
        """Which entries of a live pack are unavailable."""
        return lost_entries(self.config.get(lost_key(pack_id)))

    def is_incomplete(self, root: bytes) -> bool:
        """Whether it is known that objects with this root lack bytes."""
        return self.config.get(incomplete_key(root)) is not None

    def pinned_names(self) -> PinnedNames:
        """Which versions living leases hold by name."""
        return PinnedNames(self.living_pins())

    def lease_rows(self) -> Iterator[Row]:
        """Rows of a checkpoint's section LEASES: a lease that holds much has several."""
        for lease_id in sorted(self.leases):
            held = [[target, seq] for target, seq in self.pins.get(lease_id, {}).items()]
            for start in range(0, max(1, len(held)), _PINS_A_ROW):
                yield [*self.leases[lease_id], held[start : start + _PINS_A_ROW]]

    def _apply(self, record: Record, op: Op) -> None:  # noqa: C901 - a case for each operation
        match op:
            case Packs():
                self._publish(record, op)
            case Lease():
                self.leases[op.lease_id] = renewed(op, record.seq, self.leases.get(op.lease_id))
                self._pin(op.lease_id, op.pins, record.seq)
            case Release():
                self.end_lease(op.lease_id)
            case Sweep():
                for pack_id in op.pack_ids:
                    self._sweep(record, pack_id)
            case Deleted():
                for pack_id in op.pack_ids:
                    self._forget(pack_id)
            case Keyring():
                check_next_keyring(op, self.keyring(), record.seq)
                self.config[KEYRING_KEY] = keyring_value(op)
            case Config() if not is_reserved(op.key):
                self.config[op.key] = op.value
                if op.key == FORGOTTEN_KEY and isinstance(op.value, int):
                    self.forgettings.append(Forgetting(min(op.value, record.seq), self.pinned_names()))
            case First():
                self.config[FIRST_KEY] = op.bank_hash
            case Lost():
                self._lose(op)

    def _publish(self, record: Record, op: Packs) -> None:
        for info in op.packs:
            if info.id in self.packs:
                continue
            if info.id in self.swept:
                raise CorruptionError("a pack that was swept is published", kind=ErrorKind.RECORD, pack=info.id)
            self._add_pack(info)
        if op.lease_id in self.leases:
            self._pin(op.lease_id, tuple(info.id for info in op.packs), record.seq)

    def _add_pack(self, info: PackInfo) -> None:
        state = self.state
        self.packs[info.id] = LivePack(state.next_pack, info)
        self.state = state._replace(
            next_pack=state.next_pack + 1,
            unique_bytes=state.unique_bytes + info.raw,
            stored_bytes=state.stored_bytes + info.length,
        )

    def _pin(self, lease_id: bytes, targets: tuple[bytes | str, ...], seq: int) -> None:
        held = self.pins.setdefault(lease_id, {})
        for target in targets:
            held.setdefault(target, seq)

    def _sweep(self, record: Record, pack_id: bytes) -> None:
        live = self.packs.pop(pack_id, None)
        if live is None and pack_id in self.swept:
            return
        length = 0
        if live is not None:
            self.config.pop(lost_key(pack_id), None)
            length, state = live.info.length, self.state
            self.state = state._replace(
                unique_bytes=state.unique_bytes - live.info.raw, stored_bytes=state.stored_bytes - length
            )
        self.swept[pack_id] = SweptRow(pack_id, record.seq, record.time_ns, length, live is None)
        self.config[SWEPT_KEY] = record.seq

    def _lose(self, op: Lost) -> None:
        live = self.packs.pop(op.pack_id, None)
        if live is None:
            return
        lost = self.lost(op.pack_id).joined(entry for entry in op.entries if entry < live.info.entries)
        self.config[lost_key(op.pack_id)] = lost.encode()
        self.packs[op.pack_id] = live._replace(number=self.state.next_pack)
        self.state = self.state._replace(next_pack=self.state.next_pack + 1)

    def _forget(self, pack_id: bytes) -> None:
        row = self.swept.pop(pack_id, None)
        if row is not None and row.is_orphan:
            self.config[ORPHANS_KEY] = max(row.seq, self.config.get(ORPHANS_KEY, 0))


# Each pin is a list of two.
_PINS_A_ROW = ARRAY_LENGTH_MAX // 4


def _swept(pack_id: bytes, seq: int, swept_ns: int, length: int, is_orphan: int) -> SweptRow:
    return SweptRow(pack_id, seq, swept_ns, length, bool(is_orphan))


def _checked_info(row: Row) -> PackInfo:
    try:
        return pack_info(row)
    except (ValueError, TypeError) as error:
        raise CorruptionError("checkpoint has an impossible pack", kind=ErrorKind.CHECKPOINT) from error
