"""Checkpoints: written by merging the one before with the records since, and read back into an index.

Rule 1: a checkpoint is made from the journal and the checkpoint before it, never from the index: a row that is missing
there must not leave a name out here.
Rule 2: it is read back and compared before it becomes official, which its CHECKPOINT record makes it.
Rule 3: memory is bounded whatever the bank's size: changes are sorted in runs, blocks are written as they fill.
Both directions use the same rows:

    CONFIG      [key, value]
    PACKS       [number, id, kind, length, hash, entries, raw]                   by number
    LEASES      [id, seq, acquired ns, expires ns, owner, kind, note, [[pack id or name, since], ...]]
    SWEPT       [pack id, seq, swept ns, length, 1 for an orphan]                by id
    NAMES       [name, version, descriptor]                                      by name
    TOMBSTONES  [removed seq, ordinal, name, version, descriptor, removed ns]    by the first two
    STATE       [seq, hash, next pack, objects, logical, unique, stored, journal bytes], one row, last
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from casbank import limits
from casbank.engine.bankstate import BankState
from casbank.engine.scratch import ScratchFile
from casbank.engine.sorting import ExternalSorter, Row
from casbank.errors import CorruptionError, ErrorKind, NotFoundError, UnsupportedFormatError
from casbank.format.checkpoint import (
    BLOCK_HEAD_BYTES,
    SECTION_ORDER,
    Block,
    Section,
    decode_block,
    decode_block_head,
    encode_block,
)
from casbank.format.descriptor import decode_descriptor
from casbank.format.header import HEADER_BYTES, Kind, sequence_id
from casbank.format.loss import LOST_PREFIX, NOTHING_LOST, LostEntries, lost_entries, lost_key
from casbank.format.messages import encode
from casbank.format.record import Checkpointed, Delete, Put, pack_info
from casbank.format.seal import FileSeal, Sealing
from casbank.index.apply import Applied, Contents, ContentsOf, chunk_rows
from casbank.index.tables import LeaseRow, NameRow, PackRow, PinRow, State, SweptRow, Tombstone
from casbank.index.transaction import Edit
from casbank.index.view import View
from casbank.model import Location, PackInfo
from casbank.storage.base import Store

CHECKPOINTS = "checkpoints/"
_HASH_BYTES = 32
_SEQ_DIGITS = 20
_READ_BYTES = 4 * limits.MIB
# Rows of a bulk load that are sorted and inserted at once: some 100 MB of Python objects.
_LOAD_CHUNKS = 2**18
_BY_NAME = itemgetter(0)


def checkpoint_name(seq: int, entropy: bytes) -> str:
    """Where a checkpoint lies; random, because two hosts may write one of the same record."""
    return f"{CHECKPOINTS}{seq:020d}-{entropy.hex()}"


def checkpoint_seq(name: str) -> int | None:
    """The sequence number in a checkpoint's name; None for a name of something else."""
    digits = name.removeprefix(CHECKPOINTS).partition("-")[0]
    return int(digits) if len(digits) == _SEQ_DIGITS and digits.isascii() and digits.isdecimal() else None


class Written(NamedTuple):
    """A checkpoint that is in the store, not yet official."""

    name: str
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """Where checkpoints lie, how they are sealed, and a local folder for what is sorted on the way."""

    store: Store
    sealing: Sealing
    scratch: Path

    def write(self, before: Checkpointed | None, records: Iterable[Applied], salt: bytes, suffix: bytes) -> Written:
        """Merge the checkpoint before (None: the bank's beginning) with the records since, store and read back.

        Raises StoreError if there is no room, CorruptionError if what was read or written is damaged.
        """
        merge = Merge(self, before)
        try:
            for record in records:
                merge.add(record)
            return self.store_state(merge, salt, suffix)
        finally:
            merge.close()

    def store_state(self, merge: "Merge", salt: bytes, suffix: bytes) -> Written:
        """Store a merged state, and read it back. Raises what :meth:`write` does."""
        seq = merge.bank.state.seq
        seal = self.sealing.create(Kind.CHECKPOINT, sequence_id(seq), salt)
        with ScratchFile(self.scratch) as file:
            digest = _BlockWriter(file, seal).write(merge.sections())
            name = checkpoint_name(seq, suffix)
            self.store.put_new(name, [file.view()])
        for _ in self.blocks(Checkpointed(seq, name, digest)):
            pass
        return Written(name, seq, digest)

    def is_checkpoint(self, name: str, seq: int) -> bool:
        """Whether a file begins as a checkpoint of this bank and this record does."""
        try:
            self.sealing.open(self.store.get(name, 0, HEADER_BYTES), Kind.CHECKPOINT, sequence_id(seq))
        except (CorruptionError, UnsupportedFormatError, NotFoundError):
            return False
        return True

    def blocks(self, checkpoint: Checkpointed) -> Iterator[Block]:
        """The blocks of a checkpoint, each checked; the file's hash and end are checked behind the last."""
        reader = _Reader(self.store, checkpoint.name)
        seal = self.sealing.open(reader.take(HEADER_BYTES), Kind.CHECKPOINT, sequence_id(checkpoint.seq))
        number, rank, final = 0, 0, False
        while not final:
            head = reader.take(BLOCK_HEAD_BYTES)
            block = decode_block(seal, number, head, reader.take(decode_block_head(head).stored))
            before, rank = rank, SECTION_ORDER.index(block.section)
            if rank < before or not block.rows:
                raise CorruptionError("checkpoint's sections are out of order", kind=ErrorKind.CHECKPOINT)
            yield block
            number, final = number + 1, block.final
        if block.section is not Section.STATE or len(block.rows) != 1 or block.rows[0][0] != checkpoint.seq:
            raise CorruptionError("checkpoint does not end with its state", kind=ErrorKind.CHECKPOINT)
        if reader.digest() != reader.take(_HASH_BYTES) or reader.hash_so_far != checkpoint.file_hash:
            raise CorruptionError("checkpoint fails its hash", kind=ErrorKind.CHECKPOINT, checkpoint=checkpoint.name)
        if not reader.is_at_end():
            raise CorruptionError("something follows the checkpoint", kind=ErrorKind.CHECKPOINT, file=checkpoint.name)


class _Reader:
    """Takes a stored checkpoint from front to back, hashing it."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._data = memoryview(b"")
        self._offset = 0
        self._hasher = blake3()
        self.hash_so_far = b""

    def take(self, length: int) -> memoryview:
        if len(self._data) < length:
            self._fill(length)
        taken, self._data = self._data[:length], self._data[length:]
        if len(taken) < length:
            raise CorruptionError("checkpoint is cut short", kind=ErrorKind.CHECKPOINT, checkpoint=self._name)
        self._hasher.update(taken)
        return taken

    def is_at_end(self) -> bool:
        """Whether there is no byte left."""
        return not self._data and not self._store.get(self._name, self._offset, 1)

    def digest(self) -> bytes:
        """Hash of all that was taken."""
        self.hash_so_far = self._hasher.digest()
        return self.hash_so_far

    def _fill(self, length: int) -> None:
        try:
            fresh = self._store.get(self._name, self._offset, max(_READ_BYTES, length))
        except NotFoundError as error:
            raise CorruptionError("checkpoint is missing", kind=ErrorKind.CHECKPOINT, checkpoint=self._name) from error
        self._offset += len(fresh)
        self._data = memoryview(b"".join((self._data, fresh)))


class _BlockWriter:
    """Writes rows as sealed blocks of about a mebibyte."""

    def __init__(self, file: ScratchFile, seal: FileSeal) -> None:
        self._file = file
        self._seal = seal
        self._hasher = blake3()
        self._number = 0
        self._section = Section.CONFIG
        self._rows: list[Row] = []
        self._bytes = 0

    def write(self, sections: Iterable[tuple[Section, Row]]) -> bytes:
        """Write everything; returns the file's hash, which is its end too."""
        self._out(self._seal.header_bytes)
        for section, row in sections:
            size = len(encode(row))
            if section is not self._section or self._bytes + size > limits.CHECKPOINT_BLOCK_BYTES:
                self._flush(final=False)
            self._section = section
            self._rows.append(row)
            self._bytes += size
        self._flush(final=True)
        digest = self._hasher.digest()
        self._file.write(digest)
        return digest

    def _flush(self, *, final: bool) -> None:
        if self._rows:
            self._out(encode_block(self._seal, self._number, self._section, self._rows, final=final))
            self._number += 1
            self._rows, self._bytes = [], 0

    def _out(self, data: bytes) -> None:
        self._hasher.update(data)
        self._file.write(data)


class Merge:
    """The state after some records: the checkpoint before, and what they change. To be closed."""

    def __init__(self, files: CheckpointFiles, before: Checkpointed | None) -> None:
        self._files = files
        self._before = before
        self.bank = BankState()
        self._changes = ExternalSorter(files.scratch)
        self._fallen = ExternalSorter(files.scratch)
        for block in () if before is None else files.blocks(before):
            self.bank.load(block)

    def close(self) -> None:
        self._changes.close()
        self._fallen.close()

    def add(self, applied: Applied) -> None:
        """Take the next record."""
        self.bank.apply(applied)
        record = applied.record
        for ordinal, op in enumerate(record.ops):
            match op:
                case Put():
                    row = [op.name, record.seq, ordinal, record.time_ns, op.descriptor]
                    self._changes.add(row, len(op.descriptor) + len(op.name))
                case Delete():
                    self._changes.add([op.name, record.seq, ordinal, record.time_ns, None], len(op.name))

    def add_change(self, name: str, seq: int, ordinal: int, time_ns: int, descriptor: bytes | None) -> None:
        """For salvage: what a lost record did to a name; None: it removed it."""
        self._changes.add([name, seq, ordinal, time_ns, descriptor], len(descriptor or b"") + len(name))

    def sections(self) -> Iterator[tuple[Section, Row]]:
        """Every row of the new checkpoint, in the order of the format; once."""
        for item in sorted(self.bank.config.items()):
            yield Section.CONFIG, list(item)
        for pack in self.bank.packs.values():
            yield Section.PACKS, [pack.number, *pack.info]
        for lease in self.bank.lease_rows():
            yield Section.LEASES, lease
        for pack_id in sorted(self.bank.swept):
            yield Section.SWEPT, [*self.bank.swept[pack_id][:-1], int(self.bank.swept[pack_id].is_orphan)]
        objects = logical = 0
        for name in self.names():
            objects += 1
            logical += decode_descriptor(name[2]).size
            yield Section.NAMES, name
        for stone in self.tombstones():
            yield Section.TOMBSTONES, stone
        yield Section.STATE, list(self.bank.state._replace(objects=objects, logical_bytes=logical))

    def tombstones(self) -> Iterator[Row]:
        """The versions that were removed or replaced and can be brought back, the oldest first; once, after names."""
        forgettings = self.bank.forgettings
        # What fell in these records fell after everything that had fallen before.
        for stone in chain(self._old(Section.TOMBSTONES), self._fallen):
            removed_seq, _, name, version, *_ = stone
            if not any(forgetting.takes(name, version, removed_seq) for forgetting in forgettings):
                yield stone

    def names(self) -> Iterator[Row]:
        """Every name with its version and descriptor, in order; once."""
        changes = groupby(self._changes, key=_BY_NAME)
        change = next(changes, None)
        for old in self._old(Section.NAMES):
            while change is not None and change[0] < old[0]:
                yield from self._survivor(None, change[1])
                change = next(changes, None)
            if change is not None and change[0] == old[0]:
                yield from self._survivor(old, change[1])
                change = next(changes, None)
            else:
                yield old
        while change is not None:
            yield from self._survivor(None, change[1])
            change = next(changes, None)

    def _survivor(self, current: Row | None, changes: Iterable[Row]) -> Iterator[Row]:
        """What is left of one name; each version that it lost becomes a tombstone."""
        for name, seq, ordinal, time_ns, descriptor in changes:
            if current is not None:
                stone = [seq, ordinal, name, current[1], current[2], time_ns]
                self._fallen.add(stone, len(current[2]) + len(name))
            current = None if descriptor is None else [name, seq, descriptor]
        if current is not None:
            yield current

    def _old(self, section: Section) -> Iterator[Row]:
        if self._before is None:
            return
        for block in self._files.blocks(self._before):
            if block.section == section:
                yield from block.rows


def load_checkpoint(files: CheckpointFiles, checkpoint: Checkpointed, view: View, contents_of: ContentsOf) -> None:
    """Fill an empty view with the state of a checkpoint, bulk loads sorted.

    Raises CorruptionError if the checkpoint, or the table of a pack that it names, is damaged or missing. The view's
    state is written last: without it the view counts as empty.
    """
    chunks = _ChunkLoad(view)
    lost: dict[str, LostEntries] = {}
    for block in files.blocks(checkpoint):
        if block.section is Section.PACKS:
            for number, *fields in block.rows:
                info = _checked(pack_info, fields)
                chunks.add(number, info, contents_of(info), lost.get(lost_key(info.id), NOTHING_LOST))
        else:
            chunks.flush()
            if block.section is Section.CONFIG:
                lost.update((key, lost_entries(value)) for key, value in block.rows if key.startswith(LOST_PREFIX))
            _load_rows(view, block.section, block.rows)


class _ChunkLoad:
    """Loads the rows of many packs at once: sorted inserts are several times faster."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._packs: list[tuple[int, PackRow]] = []
        self._chunks: list[tuple[bytes, Location]] = []

    def add(self, number: int, info: PackInfo, contents: Contents, lost: LostEntries) -> None:
        self._packs.append((number, PackRow(info, len(contents.toc.chunks), contents.header)))
        self._chunks += chunk_rows(number, contents.toc, lost)
        if len(self._chunks) >= _LOAD_CHUNKS:
            self.flush()

    def flush(self) -> None:
        if self._packs:
            self._view.update(self._load)
            self._packs, self._chunks = [], []

    def _load(self, edit: Edit) -> None:
        for number, row in self._packs:
            edit.put_pack(number, row)
        edit.put_chunks(self._chunks)


def _load_rows(view: View, section: Section, rows: list[Row]) -> None:  # noqa: C901 - a case for each section
    def load(edit: Edit) -> None:  # noqa: C901 - the same cases
        match section:
            case Section.NAMES:
                edit.append_names([NameRow(name.encode(), version, data) for name, version, data in rows])
            case Section.TOMBSTONES:
                for removed_seq, ordinal, name, version, data, removed_ns in rows:
                    stone = Tombstone(removed_seq, ordinal, name.encode(), version, data, removed_ns)
                    edit.put_tombstone(stone)
            case Section.CONFIG:
                for key, value in rows:
                    edit.put_config(key, value)
            case Section.LEASES:
                for *fields, pins in rows:
                    lease = LeaseRow(*fields)
                    edit.put_lease(lease)
                    for target, seq in pins:
                        edit.put_pin(PinRow(lease.id, seq, target))
            case Section.SWEPT:
                for pack_id, seq, swept_ns, length, is_orphan in rows:
                    edit.put_swept(SweptRow(pack_id, seq, swept_ns, length, bool(is_orphan)))
            case Section.STATE:
                edit.put_state(State(*rows[-1]))

    view.update(load)


def _checked(parse: Callable[[Row], PackInfo], row: Row) -> PackInfo:
    try:
        return parse(row)
    except (ValueError, TypeError) as error:
        raise CorruptionError("checkpoint has an impossible pack", kind=ErrorKind.CHECKPOINT) from error
