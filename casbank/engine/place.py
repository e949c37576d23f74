"""Where a bank is: its store, its journal, and the folders that this client keeps for it.

Rule: of an encrypted bank nothing in clear is kept in the bank: its index lies in the client's cache folder.
"""

import fcntl
import os
import tempfile
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from casbank.config import BankUrl, default_cache_dir
from casbank.errors import AlreadyExistsError, ErrorKind, InvalidInputError, NotFoundError, StoreError
from casbank.format.bank import BANK_COPY_NAME, BANK_NAME, BankDescriptor
from casbank.format.header import Suite, decode_header
from casbank.journal.base import Journal
from casbank.journal.local import LocalJournal
from casbank.journal.memory import MemoryJournal
from casbank.storage.base import Store
from casbank.storage.files import make_folder, translate
from casbank.storage.local import LocalStore
from casbank.storage.memory import MemoryStore
from casbank.storage.mount import refuse_network_file_system
from casbank.world import World

_INDEX = "index"
_HEAD = "head"
_PRIVATE = 0o700
_memory_banks: dict[str, tuple[MemoryStore, MemoryJournal]] = {}
_memory_mutex = threading.Lock()


@dataclass(frozen=True, slots=True)
class Place:
    """The parts of a bank that depend on where it is."""

    key: Hashable
    store: Store
    journal: Journal
    index: Path
    # Where what was seen of an encrypted bank is remembered.
    head: Path | None = None
    # Where notes of this client's own are kept, which may go at any time.
    notes: Path | None = None
    # What is removed when the bank is closed.
    temporary: "tempfile.TemporaryDirectory[str] | None" = None

    def close(self) -> None:
        """Let go of all of it."""
        self.journal.close()
        self.store.close()
        if self.temporary is not None:
            self.temporary.cleanup()


def bank_key(url: BankUrl) -> Hashable:
    """What is the same for every way to name one bank in this process."""
    if url.scheme == "memory":
        return "memory", url.name
    status = url.path.stat()
    return "local", status.st_dev, status.st_ino


def store_of(url: BankUrl, world: World, *, read_only: bool = False) -> Store:
    """The store of a bank, which is there. To be closed."""
    if url.scheme == "memory":
        return _memory_banks[url.name][0]
    return LocalStore(url.path, world=world, read_only=read_only)


def journal_of(url: BankUrl, world: World, *, read_only: bool = True) -> Journal:
    """The journal of a bank, which is there. To be closed."""
    if url.scheme == "memory":
        return _memory_banks[url.name][1]
    root = url.path
    return LocalJournal(root / "journal", world=world, read_only=read_only, quarantine=root / "quarantine")


def open_place(url: BankUrl, descriptor: BankDescriptor, world: World, cache_dir: Path | None) -> Place:
    """The parts of a bank, which is there. To be closed. Raises StoreError."""
    if url.scheme == "memory":
        store, journal = _memory_banks[url.name]
        temporary = tempfile.TemporaryDirectory(prefix="casbank-")
        return Place(bank_key(url), store, journal, Path(temporary.name) / _INDEX, temporary=temporary)
    root = url.path
    refuse_network_file_system(root)
    read_only = not os.access(root, os.W_OK)
    local = LocalStore(root, world=world, read_only=read_only)
    if not read_only:
        local.clean()
    log = journal_of(url, world, read_only=read_only)
    index = index_folder(url, descriptor, cache_dir)
    notes = notes_folder(descriptor, cache_dir)
    return Place(bank_key(url), local, log, index, head_file(descriptor, cache_dir), notes)


def index_folder(url: BankUrl, descriptor: BankDescriptor, cache_dir: Path | None) -> Path:
    """In the bank, unless that is encrypted or cannot be written to, or the caller wants it elsewhere."""
    if cache_dir is None and descriptor.suite is Suite.CHECKSUM and os.access(url.path, os.W_OK):
        return url.path / _INDEX
    # Two copies of one bank have one id, and must not share an index.
    copy = blake3(os.fsencode(url.path.resolve())).hexdigest(8)
    return _cache_folder(descriptor, cache_dir) / copy / _INDEX


def head_file(descriptor: BankDescriptor, cache_dir: Path | None) -> Path | None:
    """What was seen of a bank is remembered for all its copies: one that is older is what is to be noticed."""
    return None if descriptor.suite is Suite.CHECKSUM else _cache_folder(descriptor, cache_dir) / _HEAD


def notes_folder(descriptor: BankDescriptor, cache_dir: Path | None) -> Path:
    """Where this client keeps notes of its own about a bank, which may go at any time."""
    return _cache_folder(descriptor, cache_dir)


def _cache_folder(descriptor: BankDescriptor, cache_dir: Path | None) -> Path:
    return (cache_dir or default_cache_dir()) / descriptor.bank_id.hex()


def scratch_folder(place: Place, *, private: bool) -> Path:
    """Where the index lies. Of an encrypted bank nobody else may look into it: the index is in clear."""
    path = place.index.parent
    try:
        if private and place.head is not None:
            make_folder(place.head.parent, _PRIVATE)
            place.head.parent.chmod(_PRIVATE)
        make_folder(path)
    except OSError as error:
        raise translate(error, "cannot use this folder for the index", path=path) from error
    return path


def read_bank(url: BankUrl, world: World) -> bytes:
    """The file BANK. Raises NotFoundError (kind NO_BANK), StoreError."""
    if url.scheme == "memory" and url.name not in _memory_banks:
        raise NotFoundError("no bank of this name is in memory", kind=ErrorKind.NO_BANK, bank=str(url))
    if url.scheme == "local" and not url.path.is_dir():
        reason = "is not a folder" if url.path.exists() else "does not exist"
        raise NotFoundError(f"no bank at {url}: it {reason}; 'casbank init' makes one", kind=ErrorKind.NO_BANK)
    store = store_of(url, world)
    try:
        return store.get(BANK_NAME)
    except NotFoundError:
        raise NotFoundError(
            f"no bank at {url}: there is no file BANK in it; 'casbank init' makes one", kind=ErrorKind.NO_BANK
        ) from None
    finally:
        # It would keep a file of the bank open, and so its file system busy.
        store.close()


@contextmanager
def creating(url: BankUrl) -> Iterator[None]:
    """One at a time creates a bank in a folder: BANK is there before the first record, and a rival that comes between
    the two would take it for the rest of an attempt that was cut off, and replace it."""
    if url.scheme != "local":
        with _memory_mutex:
            yield
        return
    try:
        make_folder(url.path)
        descriptor = os.open(url.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise translate(error, "cannot create a bank", path=url.path) from error
    try:
        # On the folder itself, so that no file is left over.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def prepare(url: BankUrl, world: World) -> None:
    """Make a place for a new bank, inside :func:`creating`.

    Raises AlreadyExistsError (kind BANK_EXISTS), InvalidInputError for a folder in use, StoreError.
    """
    if url.scheme == "local":
        _prepare_folder(url.path, world)
    elif url.name in _memory_banks:
        raise AlreadyExistsError("a bank of this name exists in memory", kind=ErrorKind.BANK_EXISTS, bank=str(url))
    else:
        _memory_banks[url.name] = MemoryStore(world=world), MemoryJournal()


def give_up(url: BankUrl) -> None:
    """Forget a bank whose creation failed; on a disk the next attempt sees that this one was cut off."""
    if url.scheme == "memory":
        _memory_banks.pop(url.name, None)


def _prepare_folder(root: Path, world: World) -> None:
    try:
        make_folder(root)
        refuse_network_file_system(root)
        names = {path.name for path in root.iterdir()} - {"lost+found"}
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise translate(error, "cannot create a bank", path=root) from error
    if BANK_NAME in names:
        if not _is_unfinished(root, world):
            raise AlreadyExistsError(f"there is a bank at {root} already", kind=ErrorKind.BANK_EXISTS)
        # An init that was cut off before its first record: nothing was ever in it.
        store = LocalStore(root, world=world)
        for blob in store.list("keys/"):
            store.delete(blob.name)
        # BANK last: without it the next attempt would take the folder for somebody else's.
        store.delete(BANK_COPY_NAME)
        store.delete(BANK_NAME)
    elif names - {"tmp"}:
        raise InvalidInputError(f"cannot create a bank in {root}: the folder is not empty")


def _is_unfinished(root: Path, world: World) -> bool:
    if any((root / "packs").glob("*")):
        return False
    if not _has_segments(root):
        return True
    journal = LocalJournal(root / "journal", world=world, quarantine=root / "quarantine")
    try:
        # A turn takes over what was written and not synced: then there is a bank after all.
        with journal.turn():
            return journal.head().seq == 0
    finally:
        journal.close()


def _has_segments(root: Path) -> bool:
    return any((root / "journal").glob("*.log"))


def bank_of_journal(url: BankUrl, world: World) -> bytes:
    """Whose journal is there, as the clear header of its oldest record says."""
    journal: Journal | None = None
    if url.scheme == "local" and _has_segments(url.path):
        journal = journal_of(url, world)
    elif url.scheme == "memory" and url.name in _memory_banks:
        journal = _memory_banks[url.name][1]
    entry = None if journal is None else next(journal.read(journal.first() - 1), None)
    if url.scheme == "local" and journal is not None:
        journal.close()
    if entry is None:
        raise NotFoundError(f"nothing to recover at {url}: there is no journal", kind=ErrorKind.NO_BANK)
    return decode_header(entry.record).bank_id
