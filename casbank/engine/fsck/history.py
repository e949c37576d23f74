"""What the journal and its checkpoints still say: read whole, whatever is damaged.

Rule 1: a record counts if its hash, its tag and its place are right, and it follows the one before by its hash.
Rule 2: what is *proved* is the newest readable checkpoint and the unbroken chain of records behind it; without a
damage that is everything.
Rule 3: behind a gap there may be more whole records. They are true as well, but not what was between; a salvage takes
them, and says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from casbank.engine.checkpoint import CHECKPOINTS, CheckpointFiles, checkpoint_seq
from casbank.engine.decoded import decoded
from casbank.engine.fsck.log import Findings
from casbank.errors import CasbankError, CorruptionError, NotFoundError, UnsupportedFormatError
from casbank.findings import FindingKind
from casbank.format.header import HEADER_BYTES, sequence_id
from casbank.format.record import NO_HASH, Checkpointed
from casbank.format.seal import Sealing
from casbank.index.apply import Applied
from casbank.journal.base import Head, Journal, JournalDamage, JournalEntry
from casbank.storage.base import Store

# The two newest are kept; others are named by records that are still held.
_OFFICIAL_MAX = 16
# What a record's fields can hold, with room for a bank to go on.
SEQ_MAX = 2**62
# Runs of whole records between damaged ones; a journal in more pieces than that is joined at its oldest ones.
_RUNS_MAX = 10_000
_SALVAGE = "sets the journal aside in quarantine/ and begins it anew with a checkpoint of everything that is left"


@dataclass(slots=True)
class Run:
    """Whole records ``first`` to ``last``, each of which follows the one before; the hashes before and at the end."""

    first: int
    last: int
    previous: bytes
    hash: bytes


@dataclass(slots=True)
class History:
    """``base`` and the records behind it up to ``reach`` are proved; ``head`` is the highest number that was given, as
    far as anybody can tell. ``runs`` are all whole records."""

    runs: list[Run] = field(default_factory=list)
    base: Checkpointed | None = None
    reach: int = 0
    head: int = 0
    records: int = 0
    checkpoints: int = 0
    # Numbers of records that are missing, as ranges; None is open.
    missing: list[tuple[int, int | None]] = field(default_factory=list)
    # Official checkpoints whose files cannot be read.
    damaged: list[Checkpointed] = field(default_factory=list)

    # Whether a record names the base: nobody can open a bank without that.
    is_official: bool = True
    is_damaged: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the journal is as it should be: everything that was ever acknowledged is proved by it."""
        return self.reach == self.head and self.is_official and not self.is_damaged

    def records_of(self, sealing: Sealing, journal: Journal) -> Iterator[Applied]:
        """The records behind the base that are proved, in order."""
        after = 0 if self.base is None else self.base.seq
        for applied in whole_records(sealing, journal):
            if after < applied.record.seq <= self.reach:
                yield applied


def whole_records(sealing: Sealing, journal: Journal) -> Iterator[Applied]:
    """Every record that rule 1 lets count, but for the chain, in order."""
    for item in journal.inspect():
        if isinstance(item, JournalEntry):
            try:
                yield decoded(sealing, item)
            except (CorruptionError, UnsupportedFormatError):
                continue


def read_history(journal: Journal, files: CheckpointFiles, seen: Sequence[Head], findings: Findings) -> History:
    """Read every record and every official checkpoint; ``seen`` are records that somebody remembers.

    Raises StoreError if the store itself fails.
    """
    reading = _Reading(files, seen, findings)
    for item in journal.inspect():
        if isinstance(item, JournalDamage):
            reading.damage(item)
        else:
            reading.entry(item)
    return reading.finish()


class _Reading:
    """One pass over a journal."""

    def __init__(self, files: CheckpointFiles, seen: Sequence[Head], findings: Findings) -> None:
        self._files = files
        self._seen = {head.seq: head.hash for head in seen}
        self._findings = findings
        self._official: dict[int, Checkpointed] = {}
        self.history = History()

    def damage(self, item: JournalDamage) -> None:
        """A place that cannot be read."""
        if item.is_tail:
            what = f"{item.reason}: the rest of a record that nobody was told of"
            self._findings.add(FindingKind.LEFTOVER, item.place, what, "nothing: the next writer sets it aside")
            return
        self.history.is_damaged = True
        if item.last_seq is None or item.last_seq >= item.first_seq:
            self.history.missing.append((item.first_seq, item.last_seq))
            self.history.head = max(self.history.head, item.last_seq or item.first_seq)
        self._findings.add(FindingKind.JOURNAL, item.place, f"{item.reason}{_numbers(item)}", _SALVAGE)

    def entry(self, item: JournalEntry) -> None:
        """A record whose bytes are whole."""
        self.history.head = max(self.history.head, item.seq)
        try:
            applied = decoded(self._files.sealing, item)
        except (CorruptionError, UnsupportedFormatError) as error:
            self.history.is_damaged = True
            self.history.missing.append((item.seq, item.seq))
            self._findings.add(FindingKind.JOURNAL, f"record {item.seq}", error.message, _SALVAGE)
            return
        self.history.records += 1
        if self._seen.get(item.seq, applied.hash) != applied.hash:
            self.history.is_damaged = True
            what = "this client has seen another record here: the journal was replaced, or forked"
            self._findings.add(FindingKind.JOURNAL, f"record {item.seq}", what, _SALVAGE)
        self._join(applied)
        for op in applied.record.ops:
            if isinstance(op, Checkpointed):
                self._official[op.seq] = op
                if len(self._official) > _OFFICIAL_MAX:
                    del self._official[min(self._official)]

    def _join(self, applied: Applied) -> None:
        seq, previous = applied.record.seq, applied.record.previous
        runs = self.history.runs
        if runs and seq == runs[-1].last + 1:
            if previous == runs[-1].hash:
                runs[-1].last, runs[-1].hash = seq, applied.hash
                return
            self.history.is_damaged = True
            what = f"record {seq} does not follow record {seq - 1}: one of them is another history's"
            self._findings.add(FindingKind.JOURNAL, f"record {seq}", what, _SALVAGE)
        if len(runs) < _RUNS_MAX:
            runs.append(Run(seq, seq, previous, applied.hash))

    # --- checkpoints -------------------------------------------------------------------------------------------

    def finish(self) -> History:
        """Check the checkpoints, and choose what the state is proved by."""
        history = self.history
        newest = sorted(self._official.values(), reverse=True)
        candidates: list[tuple[int, Checkpointed | None]] = []
        if self._begins_at_first():
            candidates.append((self._reach(None), None))
        # Those before the two newest were let go of.
        for checkpoint in newest[:2]:
            if self._is_readable(checkpoint):
                candidates.append((self._reach(checkpoint), checkpoint))
            else:
                history.damaged.append(checkpoint)
        stray = self._stray(above=max((reach for reach, _ in candidates), default=0))
        if stray is not None:
            candidates.append((self._reach(stray), stray))
            history.is_official = False
            what = f"there is a checkpoint of record {stray.seq}, but the journal does not reach so far, or is gone"
            self._findings.add(FindingKind.JOURNAL, "journal", what, _SALVAGE)
        elif not candidates and history.runs:
            history.is_official = False
            what = "the journal begins with no checkpoint that can be read"
            self._findings.add(FindingKind.JOURNAL, "journal", what, _SALVAGE)
        # Of those that lead equally far the newest: the fewest records to replay.
        for reach, base in candidates:
            if (reach, _seq(base)) >= (history.reach, _seq(history.base)):
                history.base, history.reach = base, reach
        history.head = max(history.head, history.reach)
        latest = max(self._seen, default=0)
        if latest > history.head:
            what = f"this client has seen record {latest}, but the journal ends at {history.head}: cut, or replaced"
            self._findings.add(FindingKind.JOURNAL, "journal", what, _SALVAGE)
            history.head = latest
        return history

    def _begins_at_first(self) -> bool:
        return any(run.first == 1 and run.previous == NO_HASH for run in self.history.runs)

    def _reach(self, base: Checkpointed | None) -> int:
        """How far an unbroken chain leads from a checkpoint, or from the beginning."""
        seq = 0 if base is None else base.seq
        for run in self.history.runs:
            if run.first <= seq + 1 <= run.last:
                # Runs end where the chain does: no second one can follow.
                return run.last
        return seq

    def _is_readable(self, checkpoint: Checkpointed) -> bool:
        self.history.checkpoints += 1
        try:
            for _ in self._files.blocks(checkpoint):
                pass
        except (CorruptionError, UnsupportedFormatError) as error:
            self._findings.add(
                FindingKind.CHECKPOINT,
                checkpoint.name,
                error.message,
                "writes a new checkpoint, and moves this one to quarantine/",
            )
            return False
        return True

    def _stray(self, above: int) -> Checkpointed | None:
        """The newest checkpoint file that can be read and is of a later record than ``above``: a checkpoint is never
        written before its records, so these are lost."""
        store = self._files.store
        names = [(checkpoint_seq(blob.name) or 0, blob.name) for blob in store.list(CHECKPOINTS)]
        for seq, name in sorted(names, reverse=True):
            checkpoint = self._described(store, name) if above < seq < SEQ_MAX else None
            if checkpoint is not None and self._is_readable(checkpoint):
                return checkpoint
        return None

    def _described(self, store: Store, name: str) -> Checkpointed | None:
        """What a record would say of a checkpoint file, by its own end."""
        seq = checkpoint_seq(name)
        try:
            size = store.size(name)
            header = store.get(name, 0, HEADER_BYTES)
            if seq is None or size <= HEADER_BYTES or header[32:48] != sequence_id(seq):
                return None
            return Checkpointed(seq, name, store.get(name, size - 32, 32))
        except (NotFoundError, CasbankError):
            return None


def _numbers(item: JournalDamage) -> str:
    if item.last_seq is None:
        return f": records from {item.first_seq} on cannot be read"
    if item.last_seq < item.first_seq:
        return ""
    if item.last_seq == item.first_seq:
        return f": record {item.first_seq} cannot be read"
    return f": records {item.first_seq} to {item.last_seq} cannot be read"


def _seq(checkpoint: Checkpointed | None) -> int:
    return 0 if checkpoint is None else checkpoint.seq
