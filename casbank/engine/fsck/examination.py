"""One check of a bank, from its smallest file to its last chunk.

Rule 1: nothing is written to the bank. Rule 2: no finding ends the check; what cannot be reached because of one is
said. Rule 3: the order is that of trust: files that need no key, the journal, the packs that it names, what names reach
in them, and last the index, which nobody needs. Rule 4: what seems to be missing may have been collected meanwhile: if
others wrote, it is looked for anew.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from casbank.engine.checkpoint import CHECKPOINTS, CheckpointFiles
from casbank.engine.fsck.history import History, read_history
from casbank.engine.fsck.indexcheck import IndexFound, check_index
from casbank.engine.fsck.keyfiles import KeyFiles
from casbank.engine.fsck.log import Draft, Findings
from casbank.engine.fsck.packcheck import PackCheck, PackVerdict
from casbank.engine.fsck.replay import Replayed
from casbank.engine.fsck.scrub import Scrub
from casbank.engine.fsck.subject import Subject, Unsealing
from casbank.engine.fsck.trees import Damage, Trees, Version
from casbank.engine.packs import PackReader
from casbank.engine.resources import WORKERS
from casbank.errors import CorruptionError
from casbank.findings import FindingKind, FsckProgress, FsckReport
from casbank.format.header import parse_id
from casbank.format.loss import INCOMPLETE_PREFIX, LostEntries, incomplete_root, lost_entries, lost_key
from casbank.format.pack import pack_name
from casbank.index.apply import FIRST_KEY
from casbank.journal.base import Head
from casbank.model import PackInfo

OnProgress = Callable[[FsckProgress], None]


class FsckOptions(NamedTuple):
    """``percent`` of the packs are read whole, 0 for none; ``keyless``: nothing is opened that needs a key."""

    percent: int
    keyless: bool


@dataclass(slots=True)
class Diagnosis:
    """What a repair goes by. ``damaged``: packs that are not whole; ``incomplete``: by root, whether a repair knows of
    it already; ``healed``: roots that are whole again; ``has_state``: anything at all is proved."""

    history: History = field(default_factory=History)
    damaged: list[PackVerdict] = field(default_factory=list)
    incomplete: dict[bytes, bool] = field(default_factory=dict)
    healed: list[bytes] = field(default_factory=list)
    index: IndexFound = IndexFound.SAME
    files: KeyFiles | None = None
    has_state: bool = False
    # Whether anything could not be read for a reason that may pass.
    may_pass: bool = False
    # What the journal's first record says of BANK.
    first_hash: bytes | None = None


class Examination:
    """One run; :attr:`diagnosis` is filled as it goes on."""

    def __init__(self, subject: Subject, findings: Findings, options: FsckOptions, progress: OnProgress | None) -> None:
        self._subject = subject
        self._findings = findings
        self._options = options
        self._progress = progress
        self._packs = self._packs_read = self._packs_resumed = self._bytes = self._objects = 0
        self._drafts: dict[bytes, Draft] = {}
        # Packs that were found damaged before others wrote, and need not be read again.
        self._rotten: dict[bytes, PackVerdict] = {}
        self.diagnosis = Diagnosis(files=subject.files)

    def run(self, unsealing: Unsealing) -> FsckReport:
        """Check everything. Raises StoreError if the store itself fails."""
        mark = self._findings.mark()
        for attempt in range(_ATTEMPTS):
            before = self._head()
            self._run_once(unsealing, self._subject.scratch / f"index-{attempt}")
            if self._findings.damage == mark.damage or self._head() == before:
                break
            if attempt < _ATTEMPTS - 1:
                self._begin_anew()
                self._findings.rewind(mark)
        self._findings.tell()
        return self._report()

    def _head(self) -> Head | None:
        """Where the journal ends; None if it does not say so."""
        try:
            return self._subject.journal.head()
        except CorruptionError:
            return None

    def _begin_anew(self) -> None:
        """Rule 4."""
        damaged = self.diagnosis.damaged
        self._rotten |= {verdict.info.id: verdict for verdict in damaged if not verdict.is_missing}
        self._options = self._options._replace(percent=0)
        self._drafts, self._packs = {}, 0
        self.diagnosis = Diagnosis(files=self._subject.files)

    def _run_once(self, unsealing: Unsealing, scratch: Path) -> None:
        subject, diagnosis = self._subject, self.diagnosis
        files = CheckpointFiles(subject.store, unsealing.sealing, subject.scratch)
        self._tell("journal", 0, 0, "records")
        diagnosis.history = read_history(subject.journal, files, subject.seen, self._findings)
        reader = PackReader(subject.store, unsealing.sealing)
        with closing(Replayed(scratch, reader)) as replayed:
            problem = replayed.run(diagnosis.history, files, subject.journal)
            if problem is not None:
                place = f"record {diagnosis.history.reach + 1}"
                self._findings.add(FindingKind.JOURNAL, place, problem, "begins the journal anew before it")
            diagnosis.has_state = replayed.state().seq > 0
            with replayed.view.read() as snapshot:
                first_hash = snapshot.config(FIRST_KEY)
            diagnosis.first_hash = first_hash if isinstance(first_hash, bytes) else None
            if not diagnosis.has_state:
                self._findings.add(FindingKind.JOURNAL, "journal", "no state of the bank can be proved", "nothing")
            self._check_packs(replayed, unsealing)
            self._check_trees(replayed, reader, unsealing)
            self._check_leftovers(replayed)
            if subject.index is not None:
                self._check_index(replayed)

    def _report(self) -> FsckReport:
        findings, history = self._findings, self.diagnosis.history
        return FsckReport(
            keyless=False,
            findings=findings.all(),
            damage=findings.damage,
            omitted=findings.omitted,
            records=history.records,
            checkpoints=history.checkpoints,
            packs=self._packs,
            packs_read=self._packs_read,
            packs_resumed=self._packs_resumed,
            bytes_read=self._bytes,
            objects=self._objects,
        )

    def _tell(self, step: str, done: int, total: int, unit: str) -> None:
        if self._progress is not None:
            self._progress(FsckProgress(step, done, total, unit))

    # --- packs -------------------------------------------------------------------------------------------------

    def _check_packs(self, replayed: Replayed, unsealing: Unsealing) -> None:
        check = PackCheck(self._subject.store, unsealing.sealing, unsealing.ids)
        reads = self._options.percent > 0
        total = replayed.state().stored_bytes * max(1, self._options.percent) // 100 if reads else 0
        with closing(Scrub(self._subject.notes, self._options.percent or 100, self._subject.world)) as scrub:
            for verdict, was_read in self._verdicts(check, replayed, scrub if reads else None):
                self._packs += 1
                self._bytes += verdict.bytes_read
                self._packs_read += was_read
                if not verdict.is_whole:
                    self._damaged(verdict)
                elif was_read:
                    scrub.note(verdict.info.id)
                unit, done = ("bytes", self._bytes) if reads else ("packs", self._packs)
                self._tell("packs", done, total, unit)
            if reads:
                scrub.finish()

    def _verdicts(
        self, check: PackCheck, replayed: Replayed, scrub: Scrub | None
    ) -> Iterator[tuple[PackVerdict, bool]]:
        """Each live pack's verdict, and whether it was read whole: a few at once, in order."""
        under_way: deque[tuple[Future[PackVerdict], bool]] = deque()
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="casbank-fsck") as workers:
            try:
                for info in replayed.live_packs():
                    reads = scrub is not None and scrub.takes(info.id)
                    if reads and scrub is not None and info.id in scrub.whole:
                        self._packs_resumed += 1
                        reads = False
                    known = self._lost(replayed, info)
                    if info.id in self._rotten:
                        yield self._rotten[info.id], False
                        continue
                    future = workers.submit(check.check, info, known, read_data=reads)
                    under_way.append((future, reads))
                    if len(under_way) > 2 * WORKERS:
                        oldest, was_read = under_way.popleft()
                        yield oldest.result(), was_read
                while under_way:
                    oldest, was_read = under_way.popleft()
                    yield oldest.result(), was_read
            finally:
                for future, _ in under_way:
                    future.cancel()

    def _lost(self, replayed: Replayed, info: PackInfo) -> LostEntries:
        with replayed.view.read() as snapshot:
            return lost_entries(snapshot.config(lost_key(info.id)))

    def _damaged(self, verdict: PackVerdict) -> None:
        self.diagnosis.damaged.append(verdict)
        kind = FindingKind.PACK_MISSING if verdict.is_missing else FindingKind.PACK
        draft = self._findings.add(kind, pack_name(verdict.info.id), "; ".join(verdict.problems), _remedy(verdict))
        self._drafts[verdict.info.id] = draft

    # --- names -------------------------------------------------------------------------------------------------

    def _check_trees(self, replayed: Replayed, reader: PackReader, unsealing: Unsealing) -> None:
        bad = {verdict.info.id: verdict.bad for verdict in self.diagnosis.damaged}
        trees = Trees(replayed, reader, unsealing.ids, bad)
        total = replayed.state().objects
        with replayed.view.read() as snapshot:
            keys = [key for key in snapshot.config_keys(INCOMPLETE_PREFIX) if snapshot.config(key) is not None]
        known = {root for key in keys if (root := incomplete_root(key)) is not None}

        def told(version: Version, damage: Damage) -> None:
            root = version.item.root
            self._incomplete(version, damage, is_known=root in known and not damage.packs & bad.keys())

        trees.run(told, lambda done: self._tell("objects", done, total, "objects"))
        self._objects = trees.objects
        unreadable = any(verdict.is_unreadable for verdict in self.diagnosis.damaged)
        self.diagnosis.may_pass = bool(trees.unreadable) or unreadable
        self.diagnosis.healed = [root for root in known if root not in self.diagnosis.incomplete]

    def _incomplete(self, version: Version, damage: Damage, *, is_known: bool) -> None:
        self.diagnosis.incomplete[version.item.root] = is_known
        name = f"{version.name} (removed)" if version.is_removed else version.name
        for pack_id in damage.packs & self._drafts.keys():
            self._findings.hit(self._drafts[pack_id], name)
        what = f"{damage.lost} of {version.item.size} bytes are lost, in {damage.pieces} places"
        if is_known:
            kind, repair = FindingKind.KNOWN_LOSS, "nothing: putting the same content again mends it"
        else:
            kind, repair = FindingKind.OBJECT, "looks for other copies, and writes down what is lost for good"
        self._findings.hit(self._findings.add(kind, name, what, repair), name)

    # --- what is left ------------------------------------------------------------------------------------------

    def _check_leftovers(self, replayed: Replayed) -> None:
        """Packs and checkpoints that belong to nothing: crashes leave them, and the collector takes them."""
        orphans = size = 0
        for blob in self._subject.store.list("packs/"):
            pack_id = parse_id(blob.name.rpartition("/")[2])
            if pack_id is None:
                continue
            with replayed.view.read() as snapshot:
                is_known = snapshot.pack_number(pack_id) is not None or snapshot.swept_pack(pack_id) is not None
            if not is_known:
                orphans, size = orphans + 1, size + blob.size
        if orphans:
            what = f"{orphans} packs of {size} bytes that no record names"
            self._findings.add(FindingKind.LEFTOVER, "packs/", what, "nothing: 'casbank gc' removes them")
        names = sum(1 for _ in self._subject.store.list(CHECKPOINTS))
        # Two, and one that may be under way.
        if names > _CHECKPOINTS_USUAL:
            what = f"{names} checkpoints, of which two are needed"
            self._findings.add(FindingKind.LEFTOVER, CHECKPOINTS, what, "nothing: the next checkpoint removes them")

    def _check_index(self, replayed: Replayed) -> None:
        assert self._subject.index is not None
        self._tell("index", 0, 0, "rows")
        found, tables = check_index(self._subject.index, replayed)
        self.diagnosis.index = found
        if found in (IndexFound.DAMAGED, IndexFound.FOREIGN, IndexFound.DIFFERS):
            what = found.value + (f" in {', '.join(tables)}" if tables else "")
            self._findings.add(FindingKind.INDEX, str(self._subject.index), what, "makes it anew")


_CHECKPOINTS_USUAL = 3
# Each one lost means that others wrote while it was looked at, and that something seemed to be missing.
_ATTEMPTS = 5


def _remedy(verdict: PackVerdict) -> str:
    if verdict.is_unreadable:
        return "nothing: it could not be read, which may pass"
    if verdict.is_back:
        return "seals what can be read again anew in another pack"
    if verdict.is_missing:
        return "looks for other copies of its chunks, and writes down what is lost"
    return "seals what is whole anew in another pack, looks for other copies of the rest, and moves it to quarantine/"
