"""Check a bank, and repair it if that is asked for: plan, do, check again.

Rule 1: a check writes nothing to the bank. Rule 2: a repair goes from the outside in: the small files, the journal,
then the packs of the bank that can be opened by now, then what is lost for good is written down; each step leaves a
bank that is no worse. Rule 3: its report is that of a check behind it.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from casbank.config import BankUrl
from casbank.engine.checkpoint import CheckpointFiles
from casbank.engine.credential import Credential, RecoveryText
from casbank.engine.engine import Engine
from casbank.engine.fsck.examination import Diagnosis, Examination, FsckOptions, OnProgress
from casbank.engine.fsck.history import read_history
from casbank.engine.fsck.indexcheck import IndexFound
from casbank.engine.fsck.keyfiles import KeyFiles, settle
from casbank.engine.fsck.keyless import KeylessExamination
from casbank.engine.fsck.log import Findings, OnFinding
from casbank.engine.fsck.packrepair import PackRepair, refuse_unmounted
from casbank.engine.fsck.quarantine import set_aside
from casbank.engine.fsck.salvage import Salvage
from casbank.engine.fsck.subject import Subject, open_subject, subject_of
from casbank.engine.opening import close_engine, drop_index, open_engine
from casbank.engine.place import journal_of, store_of
from casbank.engine.verify import verify_index
from casbank.errors import InvalidInputError, ReadOnlyError, StoreError
from casbank.findings import FindingKind, FsckReport
from casbank.format.loss import incomplete_key
from casbank.format.record import Config, Op
from casbank.index.transaction import Snapshot
from casbank.index.view import is_in_use
from casbank.storage.base import Store
from casbank.world import World

# Roots that are written down in one record.
_ROOTS_A_RECORD = 10_000
_QUICK = FsckOptions(percent=0, keyless=False)


class Watch(NamedTuple):
    """Who is told of progress, of findings as they are made, and, line by line, of what is repaired."""

    progress: OnProgress | None = None
    finding: OnFinding | None = None
    repaired: Callable[[str], None] | None = None


class Outside(NamedTuple):
    """A bank that is not open here, and may not open at all."""

    url: BankUrl
    credential: Credential | RecoveryText | None
    cache_dir: Path | None
    world: World


def fsck_outside(where: Outside, options: FsckOptions, watch: Watch, *, repair: bool) -> FsckReport:
    """Check a bank from outside; repair it.

    Raises NotFoundError (kind NO_BANK), KeyMismatchError, InvalidInputError, StoreError, and while it repairs what
    opening and committing raise.
    """
    if repair and options.keyless:
        raise InvalidInputError("what cannot be opened cannot be repaired: give the key")
    report, diagnosis = _examine(where, options, watch)
    can_open = diagnosis.has_state and diagnosis.files is not None and bool(diagnosis.files.candidates)
    if not repair or not (can_open and _is_needed(report, diagnosis)):
        return report
    refuse_unmounted(diagnosis.damaged, report.packs)
    done = _Done(watch.repaired)
    _repair_outside(where, diagnosis, done)
    if not diagnosis.history.is_whole:
        # Packs that only the new journal names were not looked at yet.
        _, diagnosis = _examine(where, options, watch)
    with _opened(where) as engine:
        _repair_packs(engine, diagnosis, done)
        if diagnosis.index is IndexFound.DIFFERS:
            engine.follower.rebuild()
            done.add("made the index anew")
    _, after = _examine(where, _QUICK, Watch(watch.progress))
    with _opened(where) as engine:
        _write_down(engine, after, done)
    last, _ = _examine(where, _QUICK, Watch(watch.progress))
    return replace(last, repaired=tuple(done.lines), packs_read=report.packs_read, bytes_read=report.bytes_read)


def fsck_open(engine: Engine, options: FsckOptions, watch: Watch, *, repair: bool) -> FsckReport:
    """Check a bank that is open here; repair it. Raises what :func:`fsck_outside` does."""
    if repair and options.keyless:
        raise InvalidInputError("what cannot be opened cannot be repaired: open the bank with its key")
    report, diagnosis = _examine_open(engine, options, watch)
    if not repair or not _is_needed(report, diagnosis):
        return report
    if not diagnosis.history.is_whole:
        raise ReadOnlyError("the journal is damaged: close the bank, and repair it with 'casbank fsck --repair'")
    engine.check_writable()
    refuse_unmounted(diagnosis.damaged, report.packs)
    done = _Done(watch.repaired)
    _repair_packs(engine, diagnosis, done)
    _repair_files(engine.resources.store, diagnosis, engine.world, done)
    if diagnosis.index is IndexFound.DIFFERS:
        engine.follower.rebuild()
        done.add("made the index anew")
    _, after = _examine_open(engine, _QUICK, Watch(watch.progress))
    _write_down(engine, after, done)
    last, _ = _examine_open(engine, _QUICK, Watch(watch.progress))
    return replace(last, repaired=tuple(done.lines), packs_read=report.packs_read, bytes_read=report.bytes_read)


def _is_needed(report: FsckReport, diagnosis: Diagnosis) -> bool:
    files = diagnosis.files
    return bool(not report.clean or diagnosis.healed or (files is not None and files.restorations))


class _Done:
    """What was repaired, told as it happens."""

    def __init__(self, told: Callable[[str], None] | None) -> None:
        self._told = told
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)
        if self._told is not None:
            self._told(line)


# --- checking ----------------------------------------------------------------------------------------------------


def _examine(where: Outside, options: FsckOptions, watch: Watch) -> tuple[FsckReport, Diagnosis]:
    findings = Findings(watch.finding)
    with open_subject(*where, findings, keyless=options.keyless) as subject:
        return _run(subject, findings, options, watch)


def _examine_open(engine: Engine, options: FsckOptions, watch: Watch) -> tuple[FsckReport, Diagnosis]:
    findings = Findings(watch.finding)
    with subject_of(engine, findings, keyless=options.keyless) as subject:
        report, diagnosis = _run(subject, findings, options, watch)
        if options.keyless or not diagnosis.history.is_whole or diagnosis.damaged:
            return report, diagnosis
        for line in verify_index(engine):
            findings.add(FindingKind.INDEX, "index", line, "makes it anew")
            diagnosis.index = IndexFound.DIFFERS
        findings.tell()
        return replace(report, findings=findings.all(), damage=findings.damage, omitted=findings.omitted), diagnosis


def _run(subject: Subject, findings: Findings, options: FsckOptions, watch: Watch) -> tuple[FsckReport, Diagnosis]:
    if options.keyless or subject.unsealing is None:
        report = KeylessExamination(subject, findings, options, watch.progress).run()
        return report, Diagnosis(files=subject.files)
    examination = Examination(subject, findings, options, watch.progress)
    report = examination.run(subject.unsealing)
    return report, examination.diagnosis


# --- repairing ---------------------------------------------------------------------------------------------------


@contextmanager
def _opened(where: Outside) -> Iterator[Engine]:
    engine = open_engine(where.url, where.world, where.cache_dir, where.credential)
    try:
        yield engine
    finally:
        close_engine(engine)


def _repair_outside(where: Outside, diagnosis: Diagnosis, done: _Done) -> None:
    """Whatever could keep the bank from being opened."""
    store = store_of(where.url, where.world)
    try:
        _repair_files(store, diagnosis, where.world, done)
        if not diagnosis.history.is_whole:
            _salvage(where, store, done)
        elif diagnosis.index in (IndexFound.DAMAGED, IndexFound.FOREIGN):
            # Before anybody opens it: a damaged map may end the process.
            drop_index(where.url, where.world, where.cache_dir)
            done.add("removed the index; it is made anew")
    finally:
        store.close()


def _repair_files(store: Store, diagnosis: Diagnosis, world: World, done: _Done) -> None:
    files = diagnosis.files or KeyFiles()
    left = settle(files, diagnosis.first_hash)
    if left is not None:
        done.add(left)
    for restoration in files.restorations:
        try:
            set_aside(store, restoration.name, world.entropy(8))
        except StoreError as error:
            if not restoration.is_unreadable:
                raise
            done.add(f"left {restoration.name} as it is: {error.message}")
            continue
        store.put_new(restoration.name, [restoration.data])
        done.add(f"put {restoration.name} back")
    for name in files.useless:
        if set_aside(store, name, world.entropy(8)) is not None:
            done.add(f"moved {name} to quarantine/")


def _salvage(where: Outside, store: Store, done: _Done) -> None:
    journal = journal_of(where.url, where.world, read_only=False)
    # Everything anew: what was put back may have changed how files are opened, and others may have written.
    with closing(journal), open_subject(*where, Findings(), keyless=False) as subject, journal.exclusive():
        if subject.unsealing is None:
            return
        if subject.index is not None and is_in_use(subject.index):
            raise StoreError("another process has the bank open: close it there, then repair", bank=str(where.url))
        files = CheckpointFiles(store, subject.unsealing.sealing, subject.scratch)
        history = read_history(subject.journal, files, subject.seen, Findings())
        salvage = Salvage(subject, subject.unsealing, store, journal, history)
        salvage.run()
    for line in salvage.done:
        done.add(line)
    # It may know of records that are lost: then it would take the new journal for another bank's.
    drop_index(where.url, where.world, where.cache_dir)


def _repair_packs(engine: Engine, diagnosis: Diagnosis, done: _Done) -> None:
    engine.follower.catch_up()
    repair = PackRepair(engine)
    for verdict in diagnosis.damaged:
        repair.mend(verdict)
        for line in repair.done:
            done.add(line)
        repair.done.clear()
    if diagnosis.history.is_whole and diagnosis.history.damaged:
        engine.checkpoints.write_upon(diagnosis.history.base)
        for checkpoint in diagnosis.history.damaged:
            if set_aside(engine.resources.store, checkpoint.name, engine.world.entropy(8)) is not None:
                done.add(f"moved {checkpoint.name} to quarantine/")
        # Two, since one alone is one damage away from none.
        engine.checkpoints.write()
        done.add("wrote new checkpoints")


def _as_they_are(ops: list[Op], _: Snapshot) -> list[Op]:
    return ops


def _write_down(engine: Engine, diagnosis: Diagnosis, done: _Done) -> None:
    """Say in the journal which objects lack bytes, and which are whole again."""
    seq = engine.follower.catch_up().seq
    new = [root for root, is_known in diagnosis.incomplete.items() if not is_known]
    if diagnosis.may_pass:
        # What could not be read may be read another time.
        new = []
    ops: list[Op] = [Config(incomplete_key(root), seq) for root in new]
    ops += [Config(incomplete_key(root), None) for root in diagnosis.healed]
    for start in range(0, len(ops), _ROOTS_A_RECORD):
        part = ops[start : start + _ROOTS_A_RECORD]
        engine.commit(partial(_as_they_are, part))
    if new:
        done.add(f"wrote down that {len(new)} contents lack bytes")
    if diagnosis.healed:
        done.add(f"wrote down that {len(diagnosis.healed)} contents are whole again")
