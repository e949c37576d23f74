"""What is examined: the parts of a bank, which nobody may be able to open as a bank any more.

Rule: nothing is written to the bank, and nothing of it is believed that the check has not looked at.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from casbank.config import BankUrl
from casbank.engine.credential import Credential, RecoveryText
from casbank.engine.engine import Engine
from casbank.engine.fsck.indexcheck import seen_by_index
from casbank.engine.fsck.keyfiles import KeyFiles, check_key_files, go_by
from casbank.engine.fsck.log import Findings
from casbank.engine.fsck.overlay import Overlay
from casbank.engine.keyrings import Keyrings
from casbank.engine.keys import open_keys, unlock
from casbank.engine.place import head_file, index_folder, journal_of, notes_folder, store_of
from casbank.engine.remembered import remembered_head
from casbank.errors import (
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    KeyMismatchError,
    NotFoundError,
    UnsupportedFormatError,
)
from casbank.findings import FindingKind
from casbank.format.bank import BankDescriptor, decode_bank
from casbank.format.header import HEADER_BYTES, Header, Suite, decode_header
from casbank.format.seal import Sealing
from casbank.index.view import is_in_use, remove_folder
from casbank.journal.base import Head, Journal, JournalEntry
from casbank.sealing.checksum import ChecksumSealing
from casbank.sealing.ids import PLAIN_IDS, Ids, keyed_ids
from casbank.storage.base import Store
from casbank.storage.files import make_folder
from casbank.world import World

_PRIVATE = 0o700
_SCRATCH = "fsck-scratch-"
# Younger ones may be of a check that has just begun.
_LEFTOVER_S = 86_400


@dataclass(frozen=True, slots=True)
class Unsealing:
    """How the bank's files are opened, and its chunks named; of an encrypted bank, the keyrings."""

    sealing: Sealing
    ids: Ids
    keyrings: Keyrings | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """``unsealing`` is None where no key is asked for, or none could be found; ``index`` where the bank's own index may
    be compared; ``notes`` where this client keeps what an interrupted check has read."""

    store: Store
    journal: Journal
    files: KeyFiles
    unsealing: Unsealing | None
    scratch: Path
    index: Path | None
    notes: Path | None
    world: World
    # The newest records that this client remembers.
    seen: tuple[Head, ...] = ()


@contextmanager
def open_subject(
    url: BankUrl,
    credential: Credential | RecoveryText | None,
    cache_dir: Path | None,
    world: World,
    findings: Findings,
    *,
    keyless: bool,
) -> Iterator[Subject]:
    """A bank from outside. Raises NotFoundError (kind NO_BANK), KeyMismatchError, InvalidInputError, StoreError."""
    if url.scheme == "memory":
        raise InvalidInputError("a bank in memory can only be checked by the process that has it open")
    if not url.path.is_dir():
        raise NotFoundError(f"no bank at {url}: it is not a folder", kind=ErrorKind.NO_BANK)
    with ExitStack() as stack:
        store = store_of(url, world, read_only=True)
        stack.callback(store.close)
        journal = journal_of(url, world)
        stack.callback(journal.close)
        _refuse_other_folders(url, store, journal)
        files = check_key_files(store, findings)
        header = _any_header(journal) if len(files.candidates) > 1 else None
        if header is not None:
            go_by(files, header.bank_id)
        bank = None if files.bank is None else decode_bank(files.bank)
        whole = Overlay(store, {restoration.name: restoration.data for restoration in files.restorations})
        unsealing = None if keyless else _unsealing(whole, journal, files.bank, credential, world, findings)
        known = bank or BankDescriptor(bytes(16), 0, "", None, 0)
        index = None if bank is None else index_folder(url, known, cache_dir)
        notes = None if bank is None else notes_folder(known, cache_dir)
        scratch = stack.enter_context(_scratch(notes, world))
        head = None if bank is None else head_file(known, cache_dir)
        seen = [None if head is None else remembered_head(head), None if index is None else seen_by_index(index)]
        known_heads = tuple(one for one in seen if one is not None)
        yield Subject(store, journal, files, unsealing, scratch, index, notes, world, known_heads)


@contextmanager
def subject_of(engine: Engine, findings: Findings, *, keyless: bool) -> Iterator[Subject]:
    """A bank that is open here: its index is compared by ``verify_index``, not from outside."""
    store = engine.resources.store
    files = check_key_files(store, findings)
    unsealing = None if keyless else Unsealing(engine.resources.sealing, engine.resources.ids)
    with _scratch(engine.notes, engine.world) as scratch:
        yield Subject(store, engine.journal, files, unsealing, scratch, None, engine.notes, engine.world)


@contextmanager
def _scratch(notes: Path | None, world: World) -> Iterator[Path]:
    """A folder for an index in clear, which may be large: in this client's cache, where nobody else can look."""
    folder = None
    try:
        if notes is not None:
            make_folder(notes, _PRIVATE)
            notes.chmod(_PRIVATE)
            _remove_leftovers(notes, world)
            folder = notes
    except OSError:
        # No such place: then TMPDIR, which nobody else can look into either.
        folder = None
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as made:
        yield Path(made)


def _remove_leftovers(notes: Path, world: World) -> None:
    """What checks that were killed left behind."""
    oldest_s = world.now_ns() // 10**9 - _LEFTOVER_S
    for left in notes.glob(f"{_SCRATCH}*"):
        if left.stat().st_mtime < oldest_s and not any(is_in_use(index) for index in left.glob("index-*")):
            remove_folder(left)


def _refuse_other_folders(url: BankUrl, store: Store, journal: Journal) -> None:
    """A mistyped path is no damaged bank."""
    has_files = any(next(iter(store.list(prefix)), None) for prefix in ("BANK", "packs/", "checkpoints/", "keys/"))
    if not has_files and next(iter(journal.inspect()), None) is None:
        raise NotFoundError(f"no bank at {url}: nothing in this folder is a bank's", kind=ErrorKind.NO_BANK)


def _unsealing(  # noqa: PLR0917 - what a subject is made of
    store: Store,
    journal: Journal,
    bank: bytes | None,
    credential: Credential | RecoveryText | None,
    world: World,
    findings: Findings,
) -> Unsealing | None:
    header = _any_header(journal) if bank is None else decode_header(bank)
    if header is None:
        return None
    if header.suite is Suite.CHECKSUM:
        if credential is not None:
            raise KeyMismatchError("a key was given, but this bank is not encrypted", kind=ErrorKind.NOT_ENCRYPTED)
        return Unsealing(ChecksumSealing(header.bank_id), PLAIN_IDS)
    if credential is None:
        raise KeyMismatchError(
            "this bank is encrypted: give its passphrase, key file or key command, or check it without (keyless)",
            kind=ErrorKind.KEY_MISSING,
        )
    if bank is None:
        what = "neither BANK nor its copy can be read, and without them no key opens anything"
        findings.add(
            FindingKind.BANK_FILE, "BANK", what, "nothing: run 'casbank init --recover' with the recovery text"
        )
        return None
    try:
        keys = open_keys(store, bank, unlock(store, bank, credential, world), world)
    except (CorruptionError, UnsupportedFormatError) as error:
        repair = "nothing: run 'casbank init --recover' with the recovery text"
        findings.add(FindingKind.KEYRING, "keys/", error.message, repair)
        return None
    return Unsealing(keys.sealing, keyed_ids(keys.keyrings.dedup_secret), keys.keyrings)


def _any_header(journal: Journal) -> Header | None:
    """Whose bank this is, where BANK does not say it: every record does."""
    for item in journal.inspect():
        if isinstance(item, JournalEntry):
            try:
                return decode_header(item.record[:HEADER_BYTES])
            except (CorruptionError, UnsupportedFormatError):
                continue
    return None
