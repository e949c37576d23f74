"""Keep the index at the journal's head, whoever wrote the records.

Rule 1: the journal is right and the index is a view: one that is missing, damaged or too old is made anew.
Rule 2: an index that knows of a record that the journal does not have is not made anew silently: somebody was told that
this record is durable.
Rule 3: a rebuilt index is made beside the old one and takes its place by a rename.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from casbank import limits
from casbank.engine.checkpoint import CheckpointFiles, load_checkpoint
from casbank.engine.decoded import decoded
from casbank.engine.packs import PackReader
from casbank.errors import (
    CasbankError,
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    StoreError,
    UnsupportedFormatError,
)
from casbank.format.header import decode_header
from casbank.format.record import Checkpointed, Keyring, Record, record_hash
from casbank.format.seal import Sealing
from casbank.index.apply import (
    EMPTY,
    KEYRING_KEY,
    NO_CONTENTS,
    Applied,
    Contents,
    ContentsOf,
    apply_records,
    official_keyring,
)
from casbank.index.tables import NameRow, State
from casbank.index.transaction import Edit, Snapshot
from casbank.index.view import InheritedIndexError, View, is_in_use, remove_folder
from casbank.journal.base import Journal, JournalEntry, Superseded
from casbank.model import PackInfo
from casbank.storage.files import make_folder, translate
from casbank.world import World

_log = logging.getLogger(__name__)
# Records applied in one index transaction while replaying: enough to amortise it, few enough to bound memory.
_REPLAY_RECORDS = 256
_REPLAY_BYTES = 8 * limits.MIB
# Each one lost means that somebody wrote two checkpoints while one was being loaded.
_REBUILD_ATTEMPTS = 5
_NEW, _OLD = ".new-", ".old-"


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """Where the index lies, and how large its map begins."""

    folder: Path
    map_bytes: int = limits.INDEX_MAP_BYTES_DEFAULT


class Follower:
    """The index of one open bank, kept up to date."""

    def __init__(
        self,
        *,
        journal: Journal,
        sealing: Sealing,
        packs: PackReader,
        checkpoints: CheckpointFiles,
        index: IndexPlace,
        world: World,
        on_keyring: Callable[[Keyring], None] | None = None,
    ) -> None:
        self._journal = journal
        self._checkpoints = checkpoints
        self._sealing = sealing
        self._packs = packs
        self._place = index
        self._world = world
        self._on_keyring = on_keyring
        self._mutex = threading.RLock()
        self._seen = EMPTY
        self._unreadable: dict[bytes, CasbankError] = {}
        try:
            self._view = View(index.folder, index.map_bytes)
        except InheritedIndexError:
            # Of no use here, and in the way: whoever opens the bank from now on takes the new one.
            self._view, self._seen = self._made_anew()
        try:
            self._view.clear_stale_readers()
            self._remove_leftovers()
        except BaseException:
            # Nobody else can, and what is open in this process cannot be opened again.
            self._view.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """A snapshot of the index as it is; call :meth:`catch_up` first where what others wrote matters.

        Never open one within another. Raises InvalidInputError (kind CLOSED) if the bank was closed meanwhile.
        """
        with ExitStack() as stack:
            yield self._enter(stack)

    def _enter(self, stack: ExitStack) -> Snapshot:
        while True:
            view = self._view
            try:
                return stack.enter_context(view.read())
            except InvalidInputError:
                # Closed: because a rebuild put another one in its place?
                if view is self._view:
                    raise

    def names(self, prefix: bytes, after: bytes | None, limit: int, *, reverse: bool) -> list[NameRow]:
        """A page of a list. A method of its own: a snapshot that a suspended iteration still names keeps its place in
        LMDB's table of readers."""
        with self.read() as snapshot:
            return snapshot.names(prefix, after, limit, reverse=reverse)

    def checkpoint(self) -> Checkpointed | None:
        """The newest official checkpoint of the index as it is."""
        with self.read() as snapshot:
            row = snapshot.checkpoint()
        return None if row is None else Checkpointed(row.seq, row.name, row.hash)

    @property
    def seen(self) -> State:
        """Where the index stood when this process last looked."""
        return self._seen

    @property
    def index_bytes(self) -> int:
        return self._view.used_bytes()

    def catch_up(self) -> State:
        """Apply every durable record that is not in the index yet; cheap when there is none."""
        head = self._journal.head()
        seen = self._seen
        if (head.seq, head.hash) == (seen.seq, seen.hash):
            return seen
        with self._mutex:
            try:
                self._seen = self._replay(self._view)
            except Superseded:
                self.rebuild()
            except CorruptionError as error:
                if error.kind is not ErrorKind.INDEX_VALUE:
                    raise
                # Or a bank whose index is damaged in this row could not even be opened, to rebuild it.
                _log.warning("the index is made anew: %s", error)
                self.rebuild()
            return self._seen

    def own(self, entry: JournalEntry, record: Record, contents: dict[bytes, Contents]) -> None:
        """Apply a record that this process has just made durable, from memory.

        A failure (a full disk under the index) leaves the index behind and is told at the next call that needs it:
        the record is durable whatever becomes of the view.
        """
        applied = Applied(record, record_hash(entry.record), len(entry.record), decode_header(entry.record).epoch)

        def contents_of(info: PackInfo) -> Contents:
            return contents.get(info.id) or self._contents_of(info)

        with self._mutex:
            try:
                seen = _apply(self._view, [applied], contents_of)
                if any(isinstance(op, Keyring) for op in record.ops):
                    # First: who is interrupted here must not take himself for up to date.
                    self._tell_keyring(self._view)
                self._seen = seen
            except CasbankError as error:
                _log.warning("the index is behind the journal: %s", error)

    def rebuild(self) -> None:
        """Make the index anew from the store, beside the old one, and put it in its place."""
        with self._mutex:
            old = self._view
            # In this order: who sees the new state must not look into the old view for it.
            self._view, self._seen = self._made_anew()
            old.abandon()

    def _made_anew(self) -> tuple[View, State]:
        """A view of the journal's head, in its place, and where it stands."""
        for _ in range(_REBUILD_ATTEMPTS):
            view = View(self._beside(_NEW), self._place.map_bytes)
            try:
                if self._journal.first() > 1:
                    self._load_newest_checkpoint(view)
                state = self._replay(view)
                self._put_in_place(view)
            # An interrupt too: nobody else would remove it.
            except BaseException as error:
                view.abandon()
                remove_folder(view.folder)
                if isinstance(error, Superseded):
                    # Another process has just let go of records that a newer checkpoint covers.
                    continue
                raise
            return view, state
        raise StoreError("the journal is forgotten faster than it can be read", path=self._place.folder)

    def close(self) -> None:
        self._view.close()

    def _put_in_place(self, view: View) -> None:
        folder = self._place.folder
        discarded = self._beside(_OLD)
        try:
            make_folder(folder)
            folder.rename(discarded)
            view.folder.rename(folder)
        except OSError as error:
            raise translate(error, "cannot replace the index", path=folder) from error
        view.folder = folder
        remove_folder(discarded)

    def _beside(self, what: str) -> Path:
        return self._place.folder.with_name(f"{self._place.folder.name}{what}{self._world.entropy(8).hex()}")

    def _remove_leftovers(self) -> None:
        """What a process that died in a rebuild left behind."""
        folder = self._place.folder
        try:
            for what in (_NEW, _OLD):
                for left in folder.parent.glob(f"{folder.name}{what}*"):
                    if not is_in_use(left):
                        remove_folder(left)
        except OSError as error:
            raise translate(error, "cannot look into the index's folder", path=folder.parent) from error

    def _load_newest_checkpoint(self, view: View) -> None:
        official = [
            op
            for entry in self._journal.read(self._journal.first() - 1)
            for op in self.decoded(entry).record.ops
            if isinstance(op, Checkpointed)
        ]
        failure: CorruptionError | None = None
        for checkpoint in reversed(official[-2:]):
            try:
                load_checkpoint(self._checkpoints, checkpoint, view, self._contents_of)
            except CorruptionError as error:
                _log.warning("checkpoint %s is damaged, trying the one before: %s", checkpoint.name, error)
                failure = error
                # What was loaded before the damage was met is no part of the one before.
                view.update(Edit.clear)
            else:
                return
        raise failure or CorruptionError("the journal begins without a checkpoint", kind=ErrorKind.CHECKPOINT)

    def _replay(self, view: View) -> State:
        with view.read() as snapshot:
            state = snapshot.state() or EMPTY
        self._unreadable.clear()
        for batch in _batches(self._journal.read(state.seq)):
            applied = [self.decoded(entry) for entry in batch]
            if applied[0].record.previous != state.hash:
                raise _another_history(state)
            state = _apply(view, applied, self._contents_of)
        self._check_head(state)
        self._tell_keyring(view)
        self._report_unreadable(view)
        return state

    def _report_unreadable(self, view: View) -> None:
        """Of the packs that could not be read, those that were swept later were gone by right."""
        if not self._unreadable:
            return
        with view.read() as snapshot:
            live = {pack_id for pack_id in self._unreadable if snapshot.pack_number(pack_id) is not None}
        for pack_id in live:
            _log.error("what is in a pack counts as missing: %s", self._unreadable[pack_id])
        self._unreadable.clear()

    def _tell_keyring(self, view: View) -> None:
        """Whoever seals must know the epoch that the bank has reached."""
        with view.read() as snapshot:
            official = official_keyring(snapshot.config(KEYRING_KEY))
        if official is not None and self._on_keyring is not None:
            self._on_keyring(official)

    def _check_head(self, state: State) -> None:
        head = self._journal.head()
        if state.seq > head.seq or (state.seq == head.seq and state.hash != head.hash):
            raise _another_history(state)

    def _contents_of(self, info: PackInfo) -> Contents:
        """A pack that is lost or damaged must not keep anybody from what is in the others."""
        try:
            return self._packs.contents(info)
        except (CorruptionError, UnsupportedFormatError) as error:
            self._unreadable[info.id] = error
            return NO_CONTENTS

    def decoded(self, entry: JournalEntry) -> Applied:
        """A journal entry, ready to be applied."""
        return decoded(self._sealing, entry)


def _another_history(state: State) -> CorruptionError:
    """Rule 2. No rebuild: the index is all that remembers what was acknowledged."""
    return CorruptionError(
        f"record {state.seq} was acknowledged, but the journal ends before it or has another in its place: it was cut, "
        "or replaced by an older one. If that was intended, run 'casbank index drop'",
        kind=ErrorKind.JOURNAL,
    )


def _apply(view: View, records: list[Applied], contents_of: ContentsOf) -> State:
    reached = EMPTY

    def change(edit: Edit) -> None:
        nonlocal reached
        reached = apply_records(edit, records, contents_of)

    view.update(change)
    return reached


def _batches(entries: Iterator[JournalEntry]) -> Iterator[list[JournalEntry]]:
    while batch := list(islice(entries, 1)):
        size = len(batch[0].record)
        for entry in islice(entries, _REPLAY_RECORDS):
            batch.append(entry)
            size += len(entry.record)
            if size > _REPLAY_BYTES:
                break
        yield batch
