"""Mend one damaged pack: what is whole in it is sealed anew, what is not is looked for elsewhere, or written down.

Rule 1: what is whole is live in new packs before anything of the old one is given up: PACKS and LOST are one record.
What is found in another pack is copied too: a collection that took the damaged copy for whole may free the other one.
Rule 2: a pack is swept only if everything that could be read of it is live elsewhere, no lease pins it, and, if
anything of it is lost or nobody knows all that was in it, it is in ``quarantine/``: who finds the missing bytes may
want it. Its file is the collector's to delete, after the readers' grace.
Rule 3: a pack whose file is missing is not swept. Nothing relies on what is lost of it, and once the file is put back,
the next check finds that and the next repair takes it up again.
Rule 4: nothing is given up for an error that may pass (``packcheck.py``, rule 3); it ends the repair.
A kill at any step leaves a bank that can be repaired again. Memory: one entry of the old pack, and two new packs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from casbank import limits
from casbank.engine.engine import Engine
from casbank.engine.fsck.packcheck import PackVerdict, pass_media_errors, tried_twice
from casbank.engine.fsck.packtable import UNNAMED, Entry, Table, own_table, remembered_table
from casbank.engine.fsck.quarantine import keep_pack
from casbank.engine.packing import make_group
from casbank.engine.packout import PackOutput
from casbank.engine.packs import PackReader, WantedEntry
from casbank.engine.rules import Reliance, Stale
from casbank.errors import (
    ConflictError,
    CorruptionError,
    ErrorKind,
    NotFoundError,
    StoreError,
    UnsupportedFormatError,
)
from casbank.format.header import Kind, parse_id
from casbank.format.loss import LostEntries, lost_entries, lost_key
from casbank.format.messages import ARRAY_LENGTH_MAX
from casbank.format.pack import pack_name
from casbank.format.record import Lost, Op, Sweep
from casbank.format.seal import IdOf
from casbank.index.tables import PackRow
from casbank.index.transaction import Snapshot
from casbank.model import ChunkRow, EntryType, PackInfo

_Read = TypeVar("_Read")
# Each one lost means that others collected the bank meanwhile.
_ATTEMPTS = 5
# A disk loses some files. Who misses more than this many, and more than one in so many, has not mounted it.
_MISSING_FEW = 10
_MISSING_ONE_IN = 10


def refuse_unmounted(damaged: Sequence[PackVerdict], packs: int) -> None:
    """Raise CorruptionError if so many of a bank's live packs are missing that their folder cannot be the right one.
    To be asked before a repair changes anything."""
    missing = sum(verdict.is_missing for verdict in damaged)
    if missing > _MISSING_FEW and missing * _MISSING_ONE_IN > packs:
        raise CorruptionError(
            f"{missing} of {packs} packs are missing: is the folder packs/ mounted, and the right one? Nothing was "
            "changed. Put it back, or what you have of it from a copy of the bank, and repair again",
            kind=ErrorKind.PACK_MISSING,
        )


@dataclass(slots=True)
class _Outcome:
    """What became of one pack's content: ids that are live in new packs, how many of them came from another pack, how
    many could be had nowhere, entries that are lost."""

    kept: list[bytes] = field(default_factory=list)
    found: int = 0
    gone: int = 0
    lost: list[int] = field(default_factory=list)


class PackRepair:
    """Mends the packs of one open bank. ``done`` says what was done, for people."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        resources = engine.resources
        self._packs = PackReader(resources.store, resources.sealing)
        self._spares: dict[bytes, tuple[PackRow, WantedEntry, ChunkRow]] | None = None
        self._quarantined: set[bytes] = set()
        self.done: list[str] = []

    def mend(self, verdict: PackVerdict) -> None:
        """Mend one pack, if it is still live. Raises StoreError, ReadOnlyError, CorruptionError, and ConflictError if
        others collect the bank too fast."""
        if verdict.is_unreadable:
            return
        for _ in range(_ATTEMPTS):
            with suppress(Stale):
                self._mend(verdict.info)
                return
            # What was swept meanwhile is a spare now.
            self._spares = None
        raise ConflictError("others collected the bank while it was repaired: repair it again")

    def _mend(self, info: PackInfo) -> None:
        since = self._engine.follower.catch_up().seq
        with self._engine.follower.read() as snapshot:
            number = snapshot.pack_number(info.id)
            known = lost_entries(snapshot.config(lost_key(info.id)))
        if number is None:
            return
        table = self._table(info, number)
        out = PackOutput(self._engine.resources)
        outcome = self._copy(info, table, out)
        out.close()
        is_whole = table is not None and table.is_complete and not outcome.lost
        # First: a kill must not leave the bank without it.
        may_go = is_whole or self._quarantine(info)
        ops: list[Op] = [*out.publication(None), *_losses(info, outcome.lost, known)]
        if ops:
            self._engine.commit(lambda _: ops, out.contents, Reliance((), since))
        self._say(info, outcome)
        if may_go:
            self._sweep(info, outcome.kept)

    def _say(self, info: PackInfo, outcome: _Outcome) -> None:
        text = f"{pack_name(info.id)}: {len(outcome.kept)} chunks and nodes sealed anew"
        if outcome.found:
            text += f", {outcome.found} of them from another copy"
        if outcome.lost:
            text += f"; {len(outcome.lost)} entries are lost"
        if outcome.gone:
            text += f", and {outcome.gone} chunks and nodes that are nowhere else"
        self.done.append(text)

    # --- what is in the pack -----------------------------------------------------------------------------------

    def _table(self, info: PackInfo, number: int) -> Table | None:
        """The pack's own table; else what the index knows of it; None if nobody knows."""
        contents = _read(partial(self._packs.contents, info))
        if contents is not None:
            return own_table(info, contents)
        with self._engine.follower.read() as snapshot:
            return remembered_table(snapshot, number)

    # --- copying -----------------------------------------------------------------------------------------------

    def _copy(self, info: PackInfo, table: Table | None, out: PackOutput) -> _Outcome:
        outcome = _Outcome()
        for number in range(info.entries):
            entry = None if table is None else table.entries.get(number)
            if table is None or entry is None:
                outcome.lost.append(number)
            else:
                self._copy_entry(table.row, entry, out, outcome)
        return outcome

    def _copy_entry(self, row: PackRow, entry: Entry, out: PackOutput, outcome: _Outcome) -> None:
        """Copy the chunks of an entry that are what their ids say; look for the others."""
        kind = EntryType(entry.wanted.row.type)
        plain = self._opened(row, entry.wanted)
        good = [] if plain is None else self._good(plain, kind, entry.chunks)
        if plain is not None and good:
            self._add(out, kind, plain, good)
            outcome.kept += [chunk.id for chunk in good]
        if len(good) == len(entry.chunks) and entry.is_complete:
            return
        outcome.lost.append(entry.wanted.number)
        starts = {chunk.start for chunk in good}
        for chunk in entry.chunks:
            if chunk.start not in starts:
                self._replace(row.info, chunk, out, outcome)

    def _replace(self, info: PackInfo, chunk: ChunkRow, out: PackOutput, outcome: _Outcome) -> None:
        """Put a chunk from elsewhere in the place of one that cannot be read."""
        copy = None if chunk.id == UNNAMED else self._live_copy(info, chunk.id) or self._spare(chunk.id)
        if copy is None:
            outcome.gone += 1
            return
        kind, piece = copy
        outcome.found += 1
        outcome.kept.append(chunk.id)
        self._add(out, kind, piece, [ChunkRow(chunk.id, 0, 0, len(piece))])

    def _opened(self, row: PackRow, wanted: WantedEntry) -> memoryview | None:
        """An entry's plain bytes, if its tag is right."""
        plain = _read(lambda: self._packs.entries(row, [wanted])[0])
        return None if plain is None else memoryview(plain)

    def _good(self, plain: memoryview, kind: EntryType, chunks: Sequence[ChunkRow]) -> list[ChunkRow]:
        """The chunks whose bytes are what their ids say; unnamed ones have their names then."""
        ids = self._engine.resources.ids
        id_of: IdOf = ids.chunk if kind is EntryType.CHUNKS else ids.node
        named = [chunk._replace(id=id_of(plain[chunk.start : chunk.start + chunk.raw])) for chunk in chunks]
        return [found for found, chunk in zip(named, chunks, strict=True) if chunk.id in (found.id, UNNAMED)]

    def _add(self, out: PackOutput, kind: EntryType, plain: memoryview, chunks: Sequence[ChunkRow]) -> None:
        parts = [plain[chunk.start : chunk.start + chunk.raw] for chunk in chunks]
        level = self._engine.resources.compression
        group = make_group(kind, b"".join(parts), [(chunk.id, chunk.raw) for chunk in chunks], level)
        out.add(Kind.DATA_PACK if kind is EntryType.CHUNKS else Kind.META_PACK, group)

    # --- other copies ------------------------------------------------------------------------------------------

    def _live_copy(self, info: PackInfo, chunk_id: bytes) -> tuple[EntryType, memoryview] | None:
        """A chunk from another live pack."""
        with self._engine.follower.read() as snapshot:
            ((_, copies),) = snapshot.all_copies([chunk_id])
            places = [(place, snapshot.pack(place.pack_number)) for place in copies]
        for place, row in places:
            if row is not None and row.info.id != info.id:
                wanted = WantedEntry(place.entry, place.offset, place.row)
                copy = self._cut(row, wanted, ChunkRow(chunk_id, place.entry, place.start, place.raw))
                if copy is not None:
                    return copy
        return None

    def _cut(self, row: PackRow, wanted: WantedEntry, chunk: ChunkRow) -> tuple[EntryType, memoryview] | None:
        kind, plain = EntryType(wanted.row.type), self._opened(row, wanted)
        if plain is None or not self._good(plain, kind, [chunk]):
            return None
        return kind, plain[chunk.start : chunk.start + chunk.raw]

    def _spare(self, chunk_id: bytes) -> tuple[EntryType, memoryview] | None:
        """A chunk from a pack that is not live any more, or never was, and still lies in the store."""
        if self._spares is None:
            self._spares = dict(islice(self._find_spares(), limits.SPARE_CHUNKS_MAX))
        found = self._spares.get(chunk_id)
        return None if found is None else self._cut(*found)

    def _find_spares(self) -> Iterator[tuple[bytes, tuple[PackRow, WantedEntry, ChunkRow]]]:
        for blob in self._engine.resources.store.list("packs/"):
            pack_id = parse_id(blob.name.rpartition("/")[2])
            if pack_id is None or self._is_live(pack_id):
                continue
            table = _read(partial(self._found, pack_id))
            if table is not None:
                for entry in table.entries.values():
                    yield from ((chunk.id, (table.row, entry.wanted, chunk)) for chunk in entry.chunks)

    def _found(self, pack_id: bytes) -> Table:
        info = self._packs.found(pack_id)
        return own_table(info, self._packs.contents(info))

    def _is_live(self, pack_id: bytes) -> bool:
        with self._engine.follower.read() as snapshot:
            return snapshot.pack_number(pack_id) is not None

    # --- the old pack ------------------------------------------------------------------------------------------

    def _quarantine(self, info: PackInfo) -> bool:
        """Rule 2; False if there is no file to keep."""
        if info.id in self._quarantined:
            return True
        try:
            target = keep_pack(self._engine.resources.store, info.id, self._engine.world.entropy(8))
        except NotFoundError:
            return False
        self._quarantined.add(info.id)
        self.done.append(f"kept the damaged pack as {target}")
        return True

    def _sweep(self, info: PackInfo, kept: Sequence[bytes]) -> None:
        """Rule 2. A pack that a lease holds stays until a collection takes it."""
        word = _Word(info.id, kept)
        ids = (info.id,)
        if self._engine.commit(lambda now: [Sweep(ids)] if word.allows(now, ids) else [], None, word):
            return
        with self._engine.follower.read() as snapshot:
            is_held = snapshot.pack_number(info.id) is not None and _is_pinned(snapshot, info.id)
        if is_held:
            self.done.append(f"{pack_name(info.id)} stays until no lease holds it")


class _Word:
    """The repair's word for a sweep (rule G)."""

    def __init__(self, pack_id: bytes, kept: Sequence[bytes]) -> None:
        self._pack_id = pack_id
        self._kept = kept

    def allows(self, now: Snapshot, pack_ids: Sequence[bytes]) -> bool:
        """Whether all that was kept of the pack has another copy in a live pack, and no lease holds it."""
        number = now.pack_number(self._pack_id)
        if tuple(pack_ids) != (self._pack_id,) or number is None or _is_pinned(now, self._pack_id):
            return False
        return all(any(place.pack_number != number for place in copies) for _, copies in now.all_copies(self._kept))


def _is_pinned(now: Snapshot, pack_id: bytes) -> bool:
    return any(pin.target == pack_id for pin in now.pins())


def _losses(info: PackInfo, lost: Sequence[int], known: LostEntries) -> list[Lost]:
    """The operations that say what is lost and was not known to be."""
    new = [number for number in lost if number not in known]
    starts = range(0, len(new), ARRAY_LENGTH_MAX)
    return [Lost(info.id, tuple(new[start : start + ARRAY_LENGTH_MAX])) for start in starts]


def _read(read: Callable[[], _Read]) -> _Read | None:
    """What is read; None if it is damaged or not there. Rule 4: raises StoreError for what may pass."""
    try:
        return tried_twice(read)
    except (CorruptionError, UnsupportedFormatError, NotFoundError, StoreError) as error:
        pass_media_errors(error)
        return None
