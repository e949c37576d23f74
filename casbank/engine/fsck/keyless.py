"""What can be checked without a key: hashes and lengths of whole files, for a scrub by who may not read the bank.

Rule: every file of a bank carries a hash that needs no key. Which packs are live, and what follows what in the journal,
only who has a key can tell.
"""

from collections.abc import Callable
from functools import partial

from blake3 import blake3

from casbank import limits
from casbank.engine.checkpoint import CHECKPOINTS
from casbank.engine.fsck.examination import FsckOptions, OnProgress
from casbank.engine.fsck.log import Findings
from casbank.engine.fsck.scrub import Scrub
from casbank.engine.fsck.subject import Subject
from casbank.errors import CorruptionError, NotFoundError, StoreError, UnsupportedFormatError
from casbank.findings import FindingKind, FsckProgress, FsckReport
from casbank.format.header import HEADER_BYTES, Kind, decode_header, parse_id, sequence_id
from casbank.format.pack import TRAILER_BYTES, read_clear_trailer
from casbank.journal.base import JournalDamage
from casbank.storage.base import BlobInfo

_HASH_BYTES = 32
_REPAIR = "'casbank fsck --repair', with a key, looks into it"


class KeylessExamination:
    """One run."""

    def __init__(self, subject: Subject, findings: Findings, options: FsckOptions, progress: OnProgress | None) -> None:
        self._subject = subject
        self._findings = findings
        self._options = options
        self._progress = progress
        self._bank_id = subject.files.bank_id
        self._records = self._checkpoints = self._packs = self._packs_read = self._resumed = self._bytes = 0

    def run(self) -> FsckReport:
        """Check every file. Raises StoreError if the store cannot be listed."""
        self._check_journal()
        for blob in self._subject.store.list(CHECKPOINTS):
            self._checkpoints += 1
            self._check(FindingKind.CHECKPOINT, blob, partial(self._check_checkpoint, blob))
        self._check_packs()
        self._findings.tell()
        return FsckReport(
            keyless=True,
            findings=self._findings.all(),
            damage=self._findings.damage,
            omitted=self._findings.omitted,
            records=self._records,
            checkpoints=self._checkpoints,
            packs=self._packs,
            packs_read=self._packs_read,
            packs_resumed=self._resumed,
            bytes_read=self._bytes,
            objects=0,
        )

    def _check_journal(self) -> None:
        for item in self._subject.journal.inspect():
            if not isinstance(item, JournalDamage):
                self._records += 1
                problem = self._header_problem(item.record, Kind.RECORD, sequence_id(item.seq))
                if problem is not None:
                    self._findings.add(FindingKind.JOURNAL, f"record {item.seq}", problem, _REPAIR)
            elif not item.is_tail:
                self._findings.add(FindingKind.JOURNAL, item.place, item.reason, _REPAIR)

    def _check(self, kind: FindingKind, blob: BlobInfo, check: Callable[[], str | None]) -> bool:
        """Whether a file is whole."""
        try:
            problem = check()
        except NotFoundError:
            # The collector, or a newer checkpoint, removed it meanwhile.
            return True
        except (CorruptionError, UnsupportedFormatError, StoreError) as error:
            problem = error.message
        if problem is not None:
            self._findings.add(kind, blob.name, problem, _REPAIR)
        return problem is None

    def _header_problem(self, data: bytes, kind: Kind, file_id: bytes | None) -> str | None:
        try:
            header = decode_header(data[:HEADER_BYTES])
        except (CorruptionError, UnsupportedFormatError) as error:
            return error.message
        if self._bank_id is not None and header.bank_id != self._bank_id:
            return "it is another bank's"
        return None if (header.kind, header.file_id) == (kind, file_id) else "it is not the file that its name says"

    def _check_checkpoint(self, blob: BlobInfo) -> str | None:
        store = self._subject.store
        digits = blob.name.removeprefix(CHECKPOINTS).partition("-")[0]
        file_id = sequence_id(int(digits)) if digits.isdecimal() and len(digits) == _SEQ_DIGITS else None
        problem = self._header_problem(store.get(blob.name, 0, HEADER_BYTES), Kind.CHECKPOINT, file_id)
        if problem is not None:
            return problem
        end = store.size(blob.name) - _HASH_BYTES
        return None if self._hash(blob.name, end) == store.get(blob.name, end) else "it does not have its hash"

    # --- packs -------------------------------------------------------------------------------------------------

    def _check_packs(self) -> None:
        reads = self._options.percent > 0
        scrub = Scrub(self._subject.notes, self._options.percent or 100, self._subject.world, keyless=True)
        try:
            for blob in self._subject.store.list("packs/"):
                self._packs += 1
                pack_id = parse_id(blob.name.rpartition("/")[2])
                wanted = reads and pack_id is not None and scrub.takes(pack_id)
                if wanted and pack_id in scrub.whole:
                    self._resumed, wanted = self._resumed + 1, False
                is_whole = self._check(FindingKind.PACK, blob, partial(self._check_pack, blob, reads=wanted))
                self._packs_read += wanted
                if wanted and is_whole and pack_id is not None:
                    scrub.note(pack_id)
                if self._progress is not None:
                    self._progress(FsckProgress("packs", self._packs, 0, "packs"))
            if reads:
                scrub.finish()
        finally:
            scrub.close()

    def _check_pack(self, blob: BlobInfo, *, reads: bool) -> str | None:
        store = self._subject.store
        pack_id = parse_id(blob.name.rpartition("/")[2])
        header = store.get(blob.name, 0, HEADER_BYTES)
        kinds = (Kind.DATA_PACK, Kind.META_PACK)
        problems = [self._header_problem(header, kind, pack_id) for kind in kinds]
        if None not in problems:
            return problems[0]
        length = store.size(blob.name)
        found_id, found_hash = read_clear_trailer(store.get(blob.name, max(0, length - TRAILER_BYTES)))
        if found_id != pack_id:
            return "its trailer is another pack's"
        if not reads:
            return None
        self._bytes += length
        return None if self._hash(blob.name, length - TRAILER_BYTES) == found_hash else "it does not have its hash"

    def _hash(self, name: str, end: int) -> bytes:
        hasher = blake3()
        for at in range(0, end, limits.FSCK_READ_BYTES):
            hasher.update(self._subject.store.get(name, at, min(limits.FSCK_READ_BYTES, end - at)))
        return hasher.digest()


_SEQ_DIGITS = 20
