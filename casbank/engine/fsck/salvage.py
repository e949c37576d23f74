"""Begin the journal anew with everything that is left of it.

Rule 1: the state is the newest readable checkpoint and every whole record behind it, in order. Where records between
are lost, what they put, removed or published is not known; later ones are true all the same.
What this client's index remembers of them is taken too, and said.
Rule 2: packs of which no record is left may be live: they are taken for it, since nothing may be freed on a guess.
Rule 3: what was there is set aside, in ``quarantine/``, not deleted; no number is ever given twice.
"""

from blake3 import blake3

from casbank.engine.checkpoint import CHECKPOINTS, CheckpointFiles, Merge, checkpoint_seq
from casbank.engine.fsck.history import SEQ_MAX, History, whole_records
from casbank.engine.fsck.packcheck import pass_media_errors
from casbank.engine.fsck.quarantine import keep_pack, set_aside
from casbank.engine.fsck.rescue import Rescued, rescue
from casbank.engine.fsck.subject import Subject, Unsealing
from casbank.engine.packs import PackReader
from casbank.engine.salt import fresh_salt
from casbank.errors import CorruptionError, NotFoundError, StoreError, UnsupportedFormatError
from casbank.format.descriptor import decode_descriptor
from casbank.format.header import ID_BYTES, Kind, parse_id, sequence_id
from casbank.format.record import Checkpointed, Record, encode_record
from casbank.index.apply import FIRST_KEY, Applied
from casbank.journal.base import Journal
from casbank.storage.base import Store


class Salvage:
    """One salvage. ``done`` says what was done, for people."""

    def __init__(
        self, subject: Subject, unsealing: Unsealing, store: Store, journal: Journal, history: History
    ) -> None:
        """``store`` and ``journal`` are the subject's, writable."""
        self._subject = subject
        self._unsealing = unsealing
        self._store = store
        self._journal = journal
        self._history = history
        self._files = CheckpointFiles(store, unsealing.sealing, subject.scratch)
        self.done: list[str] = []

    def run(self) -> None:
        """Write the checkpoint, then the new journal. Raises StoreError, CorruptionError.

        To be called inside the journal's ``exclusive``, as was what made the history: what is appended in between
        would be lost, and its number given again.
        """
        merge = Merge(self._files, self._history.base)
        try:
            gaps = self._replay(merge)
            if gaps or self._history.reach < self._history.head:
                self._rescue(merge)
                self._adopt(merge)
            self._restart(merge)
        finally:
            merge.close()

    # --- what is left ------------------------------------------------------------------------------------------

    def _replay(self, merge: Merge) -> bool:
        """Add every whole record; whether some between them are lost."""
        gaps = False
        for applied in whole_records(self._unsealing.sealing, self._subject.journal):
            record, state = applied.record, merge.bank.state
            if record.seq <= state.seq:
                continue
            if (record.seq, record.previous) != (state.seq + 1, state.hash):
                gaps = True
                self.done.append(f"went on behind a gap: record {record.seq} follows record {state.seq}")
                merge.bank.skip_to(record.seq - 1, record.previous)
            try:
                self._reach_epoch(merge, applied)
                merge.add(applied)
            except (CorruptionError, UnsupportedFormatError) as error:
                gaps = True
                self.done.append(f"left out record {record.seq}: {error.message}")
                merge.bank.skip_to(record.seq, applied.hash)
        return gaps

    def _reach_epoch(self, merge: Merge, applied: Applied) -> None:
        keyrings, official = self._unsealing.keyrings, merge.bank.keyring()
        if keyrings is None or (official is not None and official.number == applied.epoch):
            return
        if applied.record.seq == 1:
            # It names its keyring itself.
            return
        keyring = keyrings.found(applied.epoch)
        if keyring is not None:
            self.done.append(f"took up key epoch {applied.epoch}, whose beginning is lost")
            merge.bank.reach_epoch(keyring)

    def _rescue(self, merge: Merge) -> None:
        """Take what the index knows of lost records."""
        base = 0 if self._history.base is None else self._history.base.seq
        lost = [(max(first, base + 1), last or self._history.head) for first, last in self._history.missing]
        lost.append((merge.bank.state.seq + 1, self._history.head))
        lost = [(first, last) for first, last in lost if first <= last]
        index = self._subject.index
        found = None if index is None else rescue(index, lost)
        if found is None or found.bank_hash != merge.bank.config.get(FIRST_KEY) or not self._is_of_history(found, lost):
            return
        for change in found.changes:
            try:
                if change.descriptor is not None:
                    decode_descriptor(change.descriptor)
            except (CorruptionError, UnsupportedFormatError):
                continue
            now_ns = self._subject.world.now_ns()
            merge.add_change(change.name, change.seq, change.ordinal or 0, change.time_ns or now_ns, change.descriptor)
            what = "removed" if change.descriptor is None else "put"
            self.done.append(f"record {change.seq} is lost, but by the index it {what} {change.name}")

    def _is_of_history(self, found: Rescued, lost: list[tuple[int, int]]) -> bool:
        """Whether an index stands on a record of this history, or on a lost one."""
        if any(first <= found.seq <= last for first, last in lost):
            return True
        return any(
            applied.record.seq == found.seq and applied.hash == found.hash
            for applied in whole_records(self._unsealing.sealing, self._subject.journal)
        )

    def _adopt(self, merge: Merge) -> None:
        """Rule 2."""
        reader = PackReader(self._store, self._unsealing.sealing)
        adopted = 0
        for blob in self._store.list("packs/"):
            pack_id = parse_id(blob.name.rpartition("/")[2])
            if pack_id is None or pack_id in merge.bank.packs or pack_id in merge.bank.swept:
                continue
            try:
                merge.bank.adopt(reader.found(pack_id))
            except NotFoundError:
                continue
            except (CorruptionError, UnsupportedFormatError, StoreError) as error:
                pass_media_errors(error)
                # The collector takes it for an orphan, but what is whole in it may be wanted.
                target = keep_pack(self._store, pack_id, self._subject.world.entropy(8))
                self.done.append(f"{blob.name} cannot be read; kept it as {target}")
                continue
            adopted += 1
        if adopted:
            self.done.append(f"took {adopted} packs for live that no record that is left names")

    # --- the new journal ---------------------------------------------------------------------------------------

    def _restart(self, merge: Merge) -> None:
        world = self._subject.world
        state = merge.bank.state
        head = max([self._history.head, state.seq, *self._numbers()])
        if head > state.seq:
            # Rule 3. A hash that no record has: who remembers the lost ones is to see that this is another history.
            merge.bank.skip_to(head, blake3(b"salvaged" + state.hash + world.entropy(ID_BYTES)).digest())
        self._set_strays_aside()
        keyring = merge.bank.keyring()
        if keyring is not None and self._unsealing.keyrings is not None:
            self._unsealing.keyrings.use(keyring)
        written = self._files.store_state(merge, fresh_salt(world), world.entropy(8))
        record = Record(
            head + 1,
            merge.bank.state.hash,
            world.entropy(ID_BYTES),
            world.entropy(ID_BYTES),
            max(world.now_ns(), 0),
            [Checkpointed(written.seq, written.name, written.hash)],
        )
        seal = self._unsealing.sealing.create(Kind.RECORD, sequence_id(record.seq), fresh_salt(world))
        self._journal.restart(record.seq, encode_record(record, seal))
        self.done.append(f"began the journal anew at record {record.seq}, with a checkpoint of all that is left")

    def _numbers(self) -> list[int]:
        """What checkpoints say of numbers that were given: whole headers, not names that anybody can make up."""
        found = []
        for blob in self._store.list(CHECKPOINTS):
            seq = checkpoint_seq(blob.name)
            if seq is not None and 0 < seq < SEQ_MAX and self._files.is_checkpoint(blob.name, seq):
                found.append(seq)
        return found

    def _set_strays_aside(self) -> None:
        """Checkpoints that cannot be read, so that nobody takes them for newer than the journal."""
        for checkpoint in self._history.damaged:
            set_aside(self._store, checkpoint.name, self._subject.world.entropy(8))
            self.done.append(f"moved {checkpoint.name} to quarantine/")
