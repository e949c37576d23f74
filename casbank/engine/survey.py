"""What a collection knows of the bank: the state at one record, marked, and kept up with the journal.

Rule (T): names, live packs, leases and roots come from the checkpoint and the journal, never from the index.
Rule (G): whether packs may be swept is asked of the state that the record will follow: what was written since the
marking is replayed, its roots are marked, and packs that came alive, were pinned, or lean on one that a rival swept are
taken back.
"""

import struct
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from casbank import limits
from casbank.engine.bankstate import BankState, Row
from casbank.engine.checkpoint import CheckpointFiles, Merge
from casbank.engine.follow import Follower
from casbank.engine.marking import Marker, Marks, Moved, Root, Shape
from casbank.engine.resources import Resources
from casbank.engine.scratch import ScratchFile
from casbank.errors import CorruptionError, ErrorKind
from casbank.format.descriptor import decode_descriptor
from casbank.format.header import decode_header
from casbank.format.loss import INCOMPLETE_PREFIX
from casbank.format.record import Checkpointed, Lost, Put, Record, Sweep
from casbank.index.apply import SWEPT_KEY, Applied
from casbank.index.tables import LeaseRow
from casbank.index.transaction import Snapshot
from casbank.journal.base import Journal, Superseded
from casbank.model import EntryType, Location, PackInfo

_ROOT = struct.Struct("<32sB")


class Window(NamedTuple):
    """Which removed versions can be brought back: those of records behind ``forgotten``, and pinned ones.

    ``until_ns``: when the newest of them was removed, 0 if there is none. ``is_due``: there are others to forget.
    """

    forgotten: int
    until_ns: int
    is_due: bool


class Sources(NamedTuple):
    """Where a survey reads."""

    journal: Journal
    follower: Follower
    files: CheckpointFiles
    resources: Resources


class Survey:
    """The marked state of a bank. To be closed."""

    def __init__(self, sources: Sources, forget_before_ns: int | None) -> None:
        """Read the bank's state and mark what it reaches.

        ``forget_before_ns``: versions that were removed before this do not count; None: no removed version does, but
        for pinned ones. Raises CorruptionError if a tree is not whole, Moved if the bank changed too much meanwhile.
        """
        self._sources = sources
        self._is_torn = False
        self._roots = ScratchFile(sources.files.scratch)
        try:
            self._read(forget_before_ns)
        # An interrupt too: who never got the survey cannot close it.
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the temporary file."""
        self._roots.close()

    # --- the state, and what it reaches ------------------------------------------------------------------------

    def _read(self, forget_before_ns: int | None) -> None:
        before = self._checkpoint()
        merge = self._merge(before)
        try:
            for applied in self._records(0 if before is None else before.seq):
                merge.add(applied)
            self.bank: BankState = merge.bank
            # What this collection itself has swept.
            self.swept: set[int] = set()
            self._find_packs()
            self.kept, self.window = Marks(self._shape), Marks(self._shape)
            for name, _, descriptor in merge.names():
                self._mark(name, descriptor, self.kept)
            self.undelete = self._mark_tombstones(merge.tombstones(), forget_before_ns)
        except Superseded:
            raise Moved("the journal was forgotten") from None
        except CorruptionError as error:
            self._check_checkpoint(before, error)
            raise
        finally:
            merge.close()
        # Everything up to here counts as seen before anything is freed.
        self.bank.forgettings.clear()

    def _merge(self, before: Checkpointed | None) -> Merge:
        try:
            return Merge(self._sources.files, before)
        except CorruptionError as error:
            self._check_checkpoint(before, error)
            raise

    def _checkpoint(self) -> Checkpointed | None:
        self._sources.follower.catch_up()
        return self._sources.follower.checkpoint()

    def _check_checkpoint(self, before: Checkpointed | None, error: CorruptionError) -> None:
        """Moved if it was let go of because two newer ones are official."""
        if error.kind is ErrorKind.CHECKPOINT and self._checkpoint() != before:
            raise Moved("a checkpoint") from error

    def _records(self, after: int) -> Iterator[Applied]:
        return (self._sources.follower.decoded(entry) for entry in self._sources.journal.read(after))

    def _find_packs(self) -> None:
        """Compare the journal's live packs with the index, which knows how many chunks each has."""
        self.ids: dict[int, bytes] = {}
        # Packs of which the index knows nothing, because their tables could not be read: so they are not dead for that.
        self._unlisted: set[int] = set()
        # By epoch, packs that it sealed.
        self.epochs: dict[int, array[int]] = {}
        counts: list[tuple[int, int]] = []
        self._sources.follower.catch_up()
        with self._sources.follower.read() as snapshot:
            for pack_id, live in self.bank.packs.items():
                row = snapshot.pack(live.number)
                if row is None or row.info.id != pack_id:
                    state = snapshot.state()
                    if state is None or state.seq > self.bank.state.seq:
                        # Swept since, and perhaps deleted.
                        raise Moved(pack_id.hex())
                    raise CorruptionError(
                        "the index lacks a live pack; run 'casbank index rebuild'",
                        kind=ErrorKind.INDEX_VALUE,
                        pack=pack_id,
                    )
                self.ids[live.number] = pack_id
                if row.chunks:
                    epoch = decode_header(row.header).epoch
                    self.epochs.setdefault(epoch, array("Q")).append(live.number)
                elif self._may_come_back(pack_id, live.info):
                    self._unlisted.add(live.number)
                counts.append((live.number, row.chunks))
        self._shape = Shape(counts)
        resources = self._sources.resources
        self._marker = Marker(resources.packs, resources.ids, self._shape, self._sources.follower.read)

    def _may_come_back(self, pack_id: bytes, info: PackInfo) -> bool:
        """Whether somebody may still want a pack of which nothing can be read: its file may be put back."""
        is_lost = len(self.bank.lost(pack_id)) == info.entries
        return not is_lost or any(
            key.startswith(INCOMPLETE_PREFIX) and value for key, value in self.bank.config.items()
        )

    def _mark(self, name: str, descriptor: bytes, marks: Marks) -> None:
        item = decode_descriptor(descriptor)
        if item.inline is not None:
            return
        root = Root(item.root, item.depth)
        self._roots.write(_ROOT.pack(root.id, root.depth))
        self._walk(name, root, marks)

    def _walk(self, name: str, root: Root, marks: Marks) -> None:
        def take(_: bytes, place: Location, __: EntryType) -> bool:
            # What a name reaches need not be marked for a removed version too.
            return not (marks is self.window and self.kept.has(place)) and marks.add(place)

        try:
            self._enter(root, take)
        except Moved:
            if self._was_swept_since():
                raise
            if self.bank.is_incomplete(root.id):
                if marks is self.window:
                    # It cannot be brought back any more; what could be marked of it stays.
                    return
                raise CorruptionError(
                    "an object lost a part of its manifest, so nobody can tell what it still needs: put it again, or "
                    "remove it",
                    kind=ErrorKind.MANIFEST,
                    object=name,
                ) from None
            raise CorruptionError(
                "a live object's content is not whole; run 'casbank fsck'", kind=ErrorKind.CHUNK_ID, object=name
            ) from None

    def _enter(self, root: Root, take: Callable[[bytes, Location, EntryType], bool]) -> None:
        self._marker.walk(root, take, has_holes=self.bank.is_incomplete(root.id))

    def _was_swept_since(self) -> bool:
        """Whether a rival has swept anything that was live when this survey began."""
        self._sources.follower.catch_up()
        with self._sources.follower.read() as snapshot:
            swept = snapshot.config(SWEPT_KEY)
        return isinstance(swept, int) and swept > self.bank.state.seq

    def _mark_tombstones(self, stones: Iterator[Row], forget_before_ns: int | None) -> Window:
        """Mark what can be brought back; what may be forgotten is what comes before the first of those in order."""
        pinned = self.bank.pinned_names()
        forgotten, until_ns, is_open, is_due = 0, 0, False, False
        for removed_seq, _, name, version, descriptor, removed_ns in stones:
            is_old = forget_before_ns is None or removed_ns < forget_before_ns
            is_open = is_open or not is_old
            if is_open:
                until_ns = max(until_ns, removed_ns)
            else:
                forgotten = removed_seq
                if not pinned.holds(name, version, removed_seq):
                    is_due = True
                    continue
            self._mark(name, descriptor, self.window)
        return Window(forgotten, until_ns, is_due)

    # --- keeping up with the journal ---------------------------------------------------------------------------

    def follow(self, now: Snapshot | None = None) -> None:
        """Replay what was written since, and mark the roots of what was put. Moved if that is not possible.

        ``now`` is the state to reach, if it is asked where a record is appended.
        """
        self._check_whole()
        self._is_torn = True
        if now is None:
            # No further than the index, which says where chunks are.
            until = self._sources.follower.catch_up().seq
        else:
            self._marker.reading = lambda: nullcontext(now)
            state = now.state()
            until = self.bank.state.seq if state is None else state.seq
        try:
            for applied in self._records(self.bank.state.seq):
                if applied.record.seq > until:
                    break
                self._check_rivals(applied.record)
                self.bank.apply(applied)
                for op in applied.record.ops:
                    if isinstance(op, Put):
                        self._mark_put(op.descriptor)
        except Superseded:
            raise Moved("the journal was forgotten") from None
        finally:
            self._marker.reading = self._sources.follower.read
        self.bank.forgettings.clear()
        self._is_torn = False

    def _check_whole(self) -> None:
        """Who was interrupted in the middle of a record has not marked all of it: nothing may be freed on his word."""
        if self._is_torn:
            raise Moved("interrupted")

    def _check_rivals(self, record: Record) -> None:
        """Rule (G): where a rival swept a pack that this survey counts on, its reasons are not known here: they may be
        the very packs that this one would sweep. Where a repair gave a pack up, its number is another one now."""
        if any(isinstance(op, Lost) for op in record.ops):
            raise Moved("a repair")
        for pack_id in (pack_id for op in record.ops if isinstance(op, Sweep) for pack_id in op.pack_ids):
            live = self.bank.packs.get(pack_id)
            if live is not None and live.number not in self.swept and self.is_counted_on(live.number):
                raise Moved(pack_id.hex())

    def _mark_put(self, descriptor: bytes) -> None:
        item = decode_descriptor(descriptor)
        if item.inline is None:
            root = Root(item.root, item.depth)
            self._enter(root, lambda _, place, __: self.kept.add(place))

    def stands_on(self, now: Snapshot) -> bool:
        """Whether this is the state that was followed to."""
        state = now.state()
        return not self._is_torn and state is not None and state.hash == self.bank.state.hash

    # --- what may be freed -------------------------------------------------------------------------------------

    def is_marked(self, place: Location) -> bool:
        """Whether something reaches this copy of a chunk."""
        return self.kept.has(place) or self.window.has(place)

    def is_orphan(self, pack_id: bytes) -> bool:
        """Whether the journal does not know a pack: neither live nor swept."""
        return pack_id not in self.bank.packs and pack_id not in self.bank.swept

    def is_counted_on(self, number: int) -> bool:
        """Whether anything of a pack is marked."""
        return number in self.ids and self.reached(number) > 0

    def reached(self, number: int) -> int:
        """How many chunks of a pack something reaches."""
        return self.kept.chunks(number) + self.window.chunks(number)

    def reached_raw(self, number: int) -> int:
        """How many plain bytes of a pack something reaches."""
        return self.kept.raw(number) + self.window.raw(number)

    def holders(self) -> dict[bytes, LeaseRow]:
        """By pack, a living lease that pins it."""
        return {
            pin.target: self.bank.leases[pin.lease_id]
            for pin in self.bank.living_pins()
            if isinstance(pin.target, bytes) and pin.lease_id in self.bank.leases
        }

    def sweepable(self, numbers: Collection[int], copied: "Copied") -> list[int]:
        """Those of some packs that rule G lets go, in the state that was followed to."""
        self._check_whole()
        if not copied.is_live(self.bank):
            copied = Copied()
        holders = self.holders()
        free = {
            number
            for number in numbers
            if self.ids[number] in self.bank.packs
            and number not in self._unlisted
            and self.ids[number] not in holders
            and self.reached(number) == copied.chunks.get(number, 0)
        }
        return sorted(number for number in free if self._is_supported(number, free, copied))

    def _is_supported(self, number: int, free: Collection[int], copied: "Copied") -> bool:
        """Whether the packs that a pack leans on stay, or were copied."""
        return all(
            bool(copied.chunks.get(other)) if other in free else self.ids[other] in self.bank.packs
            for other in self._marker.leans.get(number, ())
        )

    def portions(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Packs that are swept together: others wait while their rows are removed."""
        part: list[int] = []
        chunks = 0
        for number in numbers:
            part.append(number)
            chunks += self._shape.count(number)
            if len(part) >= limits.SWEEP_PACKS_MAX or chunks >= limits.SWEEP_CHUNKS_MAX:
                yield part
                part, chunks = [], 0
        if part:
            yield part

    def walk_again(self, take: Callable[[bytes, Location, EntryType], None]) -> None:
        """Hand over everything that was marked, in the order of the objects; what several share, once."""
        self._roots.seek(0)
        seen = Marks(self._shape)

        def once(chunk_id: bytes, place: Location, kind: EntryType) -> bool:
            if not seen.add(place):
                return False
            # Another copy counts now if a rival swept the one that was marked: that one is none of ours to count.
            if self.is_marked(place):
                take(chunk_id, place, kind)
            return True

        while data := self._roots.read(_ROOT.size * 1024):
            for root_id, depth in _ROOT.iter_unpack(data):
                self._enter(Root(root_id, depth), once)


class Copied:
    """What a rewriting has copied and published: how many chunks of each old pack, and into which new packs."""

    def __init__(self) -> None:
        self.chunks: dict[int, int] = {}
        self.into: set[bytes] = set()

    def add(self, counts: dict[int, int], into: Sequence[bytes]) -> None:
        """Take note of what was published."""
        for number, count in counts.items():
            self.chunks[number] = self.chunks.get(number, 0) + count
        self.into.update(into)

    def is_live(self, bank: BankState) -> bool:
        """Whether all of it is still there."""
        return all(pack_id in bank.packs for pack_id in self.into)
