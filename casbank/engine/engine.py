"""One open bank: its parts put together, once a process.

Rule 1: two opens of one bank in one process share one engine: an LMDB environment must be opened only once.
Rule 2: an engine is of no use in a forked child, and does nothing there.
"""

import fcntl
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from casbank.chunking import gear_table, make_chunker, parse_profile
from casbank.config import BankUrl, default_cache_dir
from casbank.engine.checkpoint import CheckpointFiles
from casbank.engine.checkpointing import CheckpointKeeper
from casbank.engine.commit import Committer, Decide
from casbank.engine.credential import Credential, RecoveryText
from casbank.engine.follow import Follower, IndexPlace
from casbank.engine.keys import (
    BankKeys,
    Unlocked,
    is_removed,
    make_keys,
    open_keys,
    recovered_bank,
    restore_files,
    unlock,
)
from casbank.engine.leases import LeaseKeeper
from casbank.engine.packs import PackReader
from casbank.engine.reader import ObjectReader
from casbank.engine.remembered import RememberedHead
from casbank.engine.resources import BufferPool, Resources, buffer_bytes
from casbank.engine.rules import Backing
from casbank.engine.salt import fresh_salt
from casbank.errors import (
    AlreadyExistsError,
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    KeyMismatchError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
    UnsupportedFormatError,
)
from casbank.format.bank import BANK_NAME, BankDescriptor, bank_hash, decode_bank, encode_bank
from casbank.format.header import Suite, decode_header
from casbank.format.record import First, Op
from casbank.format.seal import Sealing
from casbank.index.apply import FIRST_KEY, KEYRING_KEY, Contents
from casbank.index.view import is_in_use, remove_folder
from casbank.journal.base import Head, Journal
from casbank.journal.local import LocalJournal
from casbank.journal.memory import MemoryJournal
from casbank.sealing.checksum import ChecksumSealing
from casbank.sealing.ids import PLAIN_IDS, keyed_ids
from casbank.storage.base import Store
from casbank.storage.files import make_folder, translate
from casbank.storage.local import LocalStore
from casbank.storage.memory import MemoryStore
from casbank.storage.mount import refuse_network_file_system
from casbank.world import World

_log = logging.getLogger(__name__)
_INDEX = "index"
_HEAD = "head"
_PRIVATE = 0o700
_ROLLED_BACK = (
    "this client has seen a newer state of this bank, or another one: the bank went back in time or was forked. It can "
    "be read. If it was restored on purpose, 'casbank index drop --forget-head' makes it writable; what was stored "
    "since the copy is gone"
)


@dataclass(frozen=True, slots=True)
class _Place:
    """The parts that depend on where a bank is."""

    key: Hashable
    store: Store
    journal: Journal
    index: Path
    # Where what was seen of an encrypted bank is remembered.
    head: Path | None = None
    # What is removed when the engine closes.
    temporary: "tempfile.TemporaryDirectory[str] | None" = None


class Engine:
    """Store, journal, index and threads of one bank, shared by every :class:`casbank.Bank` of this process."""

    def __init__(self, place: _Place, descriptor: BankDescriptor, world: World, keys: BankKeys | None) -> None:
        profile = parse_profile(descriptor.chunking)
        sealing: Sealing
        if keys is None:
            sealing, ids, chunker = ChecksumSealing(descriptor.bank_id), PLAIN_IDS, make_chunker(profile)
        else:
            secret = keys.keyrings.dedup_secret
            sealing, ids, chunker = keys.sealing, keyed_ids(secret), make_chunker(profile, gear_table(secret))
        packs = PackReader(place.store, sealing)
        self._place = place
        self.key = place.key
        self.descriptor = descriptor
        self.world = world
        self.keys = keys
        self.journal = place.journal
        self._pid = os.getpid()
        self._closed = False
        self._rolled_back = False
        scratch = _scratch_folder(place, private=keys is not None)
        self._remembered = None if place.head is None else RememberedHead(place.head)
        self.files = CheckpointFiles(place.store, sealing, scratch)
        index = IndexPlace(place.index)
        self.follower = Follower(
            journal=place.journal,
            sealing=sealing,
            packs=packs,
            checkpoints=self.files,
            index=index,
            world=world,
            on_keyring=None if keys is None else keys.keyrings.use,
        )
        self._committer = Committer(place.journal, self.follower, sealing, world)
        self.checkpoints = CheckpointKeeper(
            journal=place.journal,
            follower=self.follower,
            committer=self._committer,
            files=self.files,
            world=world,
            check_writable=self.check_writable,
        )
        self.leases = LeaseKeeper()
        self.resources = Resources(
            store=place.store,
            sealing=sealing,
            ids=ids,
            chunker=chunker,
            compression=descriptor.compression,
            packs=packs,
            follower=self.follower,
            commit=self.commit,
            leases=self.leases,
            check_usable=self.check_usable,
            world=world,
            buffers=BufferPool(buffer_bytes(chunker)),
        )
        self.reader = ObjectReader(self.resources)

    def commit(self, decide: Decide, contents: dict[bytes, Contents] | None = None, backing: Backing = None) -> int:
        """Append one record (see :class:`Committer`), and begin a checkpoint if one is due."""
        self.check_usable()
        self.check_writable()
        version = self._committer.commit(decide, contents, backing)
        self._remember()
        self.checkpoints.consider(self.follower.seen)
        return version

    def check_writable(self) -> None:
        """Raise UnsupportedFormatError or ReadOnlyError for a bank that can be read only."""
        if self.descriptor.read_only_compatible:
            raise UnsupportedFormatError("the bank has a feature that this casbank cannot write; it can be read")
        if self._rolled_back:
            raise ReadOnlyError(_ROLLED_BACK, kind=ErrorKind.ROLLED_BACK)

    def check_history(self) -> None:
        """Compare the journal with what this client has seen of it. One that went back in time, or that another history
        took the place of, is read and not written."""
        if self._remembered is not None and not self._remembered.agrees(self.journal):
            self._rolled_back = True
            _log.warning("the bank went back in time or was forked since this client saw it last; it can only be read")
            # The index stands on what is no longer there.
            self.follower.rebuild()

    def check_first(self, expected: bytes) -> None:
        """Compare the journal's first record with BANK: a wrong or restored journal must not pass for this bank's."""
        self.follower.catch_up()
        with self.follower.read() as snapshot:
            found, keyring = snapshot.config(FIRST_KEY), snapshot.config(KEYRING_KEY)
        if found is None:
            raise NotFoundError("creating this bank was interrupted; run 'casbank init' again", kind=ErrorKind.NO_BANK)
        if found != expected:
            raise CorruptionError("the journal is another bank's", kind=ErrorKind.JOURNAL)
        if (keyring is None) is not (self.keys is None):
            raise CorruptionError("the journal names no keyring, or one in a plain bank", kind=ErrorKind.JOURNAL)
        self._remember()

    def _remember(self) -> None:
        seen = self.follower.seen
        if self._remembered is not None and not self._rolled_back:
            self._remembered.advance(Head(seen.seq, seen.hash))

    def has_removed(self, slot_id: bytes) -> bool:
        """Whether the bank lets a key slot open it no longer."""
        self.follower.catch_up()
        with self.follower.read() as snapshot:
            return is_removed(snapshot, slot_id)

    def check_usable(self) -> None:
        """Raise InvalidInputError in a forked child of the process that opened the bank (kind FORKED), and once it is
        closed (kind CLOSED)."""
        if self.in_child():
            raise InvalidInputError(
                "this bank was opened by the parent process; open it again in the child", kind=ErrorKind.FORKED
            )
        if self._closed:
            raise InvalidInputError("the bank is closed", kind=ErrorKind.CLOSED)

    def in_child(self) -> bool:
        """Whether this is a forked child of the process that opened the bank."""
        return os.getpid() != self._pid

    def close(self) -> None:
        if self.in_child():
            return
        self.leases.close()
        self.checkpoints.wait()
        self._closed = True
        self.resources.close()
        if self._remembered is not None:
            self._remember()
            self._remembered.close()
        self.follower.close()
        self.journal.close()
        self.resources.store.close()
        if self._place.temporary is not None:
            self._place.temporary.cleanup()


class _Registry:
    """The engines that are open in this process, with the number of banks that use each."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._open: dict[Hashable, tuple[Engine, int]] = {}
        self._inherited: list[dict[Hashable, tuple[Engine, int]]] = []

    def renew(self) -> None:
        """To be called in a forked child: nothing is open here, and nobody holds the mutex."""
        # Kept, because what the parent's engines would do when they go is none of the child's business.
        self._inherited.append(self._open)
        self._open, self._mutex = {}, threading.RLock()

    def take(self, key: Hashable, make: Callable[[], Engine]) -> Engine:
        with self._mutex:
            engine, users = self._open.get(key, (None, 0))
            if engine is None:
                engine = make()
            self._open[key] = (engine, users + 1)
            return engine

    def give(self, engine: Engine) -> None:
        if engine.in_child():
            return
        with self._mutex:
            _, users = self._open[engine.key]
            if users > 1:
                self._open[engine.key] = (engine, users - 1)
            else:
                del self._open[engine.key]
                engine.close()

    def has(self, key: Hashable) -> bool:
        with self._mutex:
            return key in self._open


_registry = _Registry()
os.register_at_fork(after_in_child=_registry.renew)
_memory_banks: dict[str, tuple[MemoryStore, MemoryJournal]] = {}
_memory_mutex = threading.Lock()


def create_engine(
    url: BankUrl,
    descriptor: BankDescriptor,
    world: World,
    cache_dir: Path | None,
    *,
    credential: Credential | None = None,
    dedup_secret: bytes | None = None,
) -> Engine:
    """Create a bank and open it, encrypted if there is a credential.

    Raises AlreadyExistsError, InvalidInputError for a folder in use, StoreError, KeyMismatchError for a key command
    that fails.
    """
    data = encode_bank(descriptor, fresh_salt(world))

    def make() -> Engine:
        first: list[Op] = [First(descriptor.bank_id, bank_hash(data))]
        keys = None
        with _undoing(_place(url, descriptor, world, cache_dir)) as place:
            if credential is not None:
                keys, keyring = make_keys(place.store, data, credential, dedup_secret, world)
                first.append(keyring)
            made = Engine(place, descriptor, world, keys)
        with _closing_on_error(made) as engine:
            engine.commit(lambda now: first if now.state() is None else [])
            engine.check_first(bank_hash(data))
        return engine

    with _creating(url):
        if url.scheme == "local":
            _prepare_folder(url.path, world)
        elif url.name in _memory_banks:
            raise AlreadyExistsError("a bank of this name exists in memory", kind=ErrorKind.BANK_EXISTS, bank=str(url))
        else:
            _memory_banks[url.name] = MemoryStore(world=world), MemoryJournal()
        _store_of(url, world).put_new(BANK_NAME, [data])
        try:
            return _take(url, descriptor, make)
        except BaseException:
            # On a disk the next attempt sees that this one was cut off.
            if url.scheme == "memory":
                _memory_banks.pop(url.name, None)
            raise


@contextmanager
def _creating(url: BankUrl) -> Iterator[None]:
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


def open_engine(
    url: BankUrl, world: World, cache_dir: Path | None, credential: Credential | RecoveryText | None = None
) -> Engine:
    """Open a bank that exists. Raises NotFoundError (kind NO_BANK), KeyMismatchError, CorruptionError,
    UnsupportedFormatError, StoreError."""
    data = _read_bank(url, world)
    descriptor = decode_bank(data)
    if descriptor.journal is not None:
        raise UnsupportedFormatError("this bank's journal is not on this disk; this casbank cannot open it yet")
    _check_given(descriptor, credential)
    removed: frozenset[bytes] = frozenset()
    while True:
        unlocked = None if credential is None else _unlock(url, data, credential, world, removed)

        def make(unlocked: Unlocked | None = unlocked) -> Engine:
            with _undoing(_place(url, descriptor, world, cache_dir)) as place:
                keys = None if unlocked is None else open_keys(place.store, data, unlocked, world)
                made = Engine(place, descriptor, world, keys)
            with _closing_on_error(made) as engine:
                engine.check_history()
                engine.check_first(bank_hash(data))
            return engine

        engine = _take(url, descriptor, make)
        slot_id = None if unlocked is None else unlocked.slot_id
        try:
            if slot_id is None or not engine.has_removed(slot_id):
                return engine
        except BaseException:
            _registry.give(engine)
            raise
        # Somebody put back the file of a slot that was removed; the same key may have another one.
        _registry.give(engine)
        removed |= {slot_id}


def _unlock(
    url: BankUrl, data: bytes, credential: Credential | RecoveryText, world: World, removed: frozenset[bytes]
) -> Unlocked:
    store = _store_of(url, world)
    try:
        return unlock(store, data, credential, world, removed)
    finally:
        store.close()


def _check_given(descriptor: BankDescriptor, credential: Credential | RecoveryText | None) -> None:
    is_encrypted = descriptor.suite is not Suite.CHECKSUM
    if is_encrypted and credential is None:
        raise KeyMismatchError(
            "this bank is encrypted: give its passphrase, key file or key command", kind=ErrorKind.KEY_MISSING
        )
    if credential is not None and not is_encrypted:
        # Not ignored: who can write the store could have put an unencrypted bank in this one's place.
        raise KeyMismatchError("a key was given, but this bank is not encrypted", kind=ErrorKind.NOT_ENCRYPTED)


def recover_engine(
    url: BankUrl, world: World, cache_dir: Path | None, recovery: RecoveryText, credential: Credential
) -> Engine:
    """Put back what is missing of BANK and the keyrings, open the bank, and give it a slot for ``credential``."""
    if _bank_of_journal(url, world) != recovered_bank(recovery):
        raise KeyMismatchError("the recovery text is another bank's", kind=ErrorKind.KEY_WRONG)
    store = _store_of(url, world)
    try:
        restore_files(store, recovery, world)
    finally:
        store.close()
    engine = open_engine(url, world, cache_dir, recovery)
    try:
        assert engine.keys is not None
        engine.check_writable()
        engine.keys.slots.add(credential, engine.keys.keyrings.key, "")
    except BaseException:
        _registry.give(engine)
        raise
    return engine


def _take(url: BankUrl, descriptor: BankDescriptor, make: Callable[[], Engine]) -> Engine:
    engine = _registry.take(_key(url), make)
    if engine.descriptor.bank_id != descriptor.bank_id:
        _registry.give(engine)
        raise StoreError("a bank that was open here was deleted or replaced: close it first", bank=str(url))
    return engine


def close_engine(engine: Engine) -> None:
    """Give back what ``create_engine`` or ``open_engine`` returned."""
    _registry.give(engine)


def drop_index(url: BankUrl, world: World, cache_dir: Path | None, *, forget_head: bool = False) -> None:
    """Remove the index of a bank that nobody has open; the next one to open it rebuilds it.

    ``forget_head``: and what this client remembers of the bank's history. Raises StoreError if somebody has it open.
    """
    descriptor = decode_bank(_read_bank(url, world))
    folder = _index_folder(url, descriptor, cache_dir)
    if _registry.has(_key(url)) or is_in_use(folder):
        raise StoreError("the bank is open; close it first, or use 'casbank index rebuild'", bank=str(url))
    remove_folder(folder)
    head = _head_file(descriptor, cache_dir)
    if forget_head and head is not None:
        try:
            head.unlink(missing_ok=True)
        except OSError as error:
            raise translate(error, "cannot forget what was seen of this bank", path=head) from error


@contextmanager
def _undoing(place: _Place) -> Iterator[_Place]:
    """Let go of the parts of a bank if no engine comes of them."""
    try:
        yield place
    except BaseException:
        place.journal.close()
        place.store.close()
        if place.temporary is not None:
            place.temporary.cleanup()
        raise


@contextmanager
def _closing_on_error(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    except BaseException:
        engine.close()
        raise


def _scratch_folder(place: _Place, *, private: bool) -> Path:
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


def _key(url: BankUrl) -> Hashable:
    if url.scheme == "memory":
        return "memory", url.name
    status = url.path.stat()
    return "local", status.st_dev, status.st_ino


def _store_of(url: BankUrl, world: World) -> Store:
    return LocalStore(url.path, world=world) if url.scheme == "local" else _memory_banks[url.name][0]


def _place(url: BankUrl, descriptor: BankDescriptor, world: World, cache_dir: Path | None) -> _Place:
    if url.scheme == "memory":
        store, journal = _memory_banks[url.name]
        temporary = tempfile.TemporaryDirectory(prefix="casbank-")
        return _Place(_key(url), store, journal, Path(temporary.name) / _INDEX, temporary=temporary)
    root = url.path
    refuse_network_file_system(root)
    read_only = not os.access(root, os.W_OK)
    local = LocalStore(root, world=world, read_only=read_only)
    if not read_only:
        local.clean()
    log = LocalJournal(root / "journal", world=world, read_only=read_only, quarantine=root / "quarantine")
    index = _index_folder(url, descriptor, cache_dir)
    return _Place(_key(url), local, log, index, _head_file(descriptor, cache_dir))


def _index_folder(url: BankUrl, descriptor: BankDescriptor, cache_dir: Path | None) -> Path:
    """In the bank, unless that is encrypted or cannot be written to, or the caller wants it elsewhere."""
    if cache_dir is None and descriptor.suite is Suite.CHECKSUM and os.access(url.path, os.W_OK):
        return url.path / _INDEX
    # Two copies of one bank have one id, and must not share an index.
    copy = blake3(os.fsencode(url.path.resolve())).hexdigest(8)
    return _cache_folder(descriptor, cache_dir) / copy / _INDEX


def _head_file(descriptor: BankDescriptor, cache_dir: Path | None) -> Path | None:
    """What was seen of a bank is remembered for all its copies: one that is older is what is to be noticed."""
    return None if descriptor.suite is Suite.CHECKSUM else _cache_folder(descriptor, cache_dir) / _HEAD


def _cache_folder(descriptor: BankDescriptor, cache_dir: Path | None) -> Path:
    return (cache_dir or default_cache_dir()) / descriptor.bank_id.hex()


def _read_bank(url: BankUrl, world: World) -> bytes:
    if url.scheme == "memory" and url.name not in _memory_banks:
        raise NotFoundError("no bank of this name is in memory", kind=ErrorKind.NO_BANK, bank=str(url))
    if url.scheme == "local" and not url.path.is_dir():
        reason = "is not a folder" if url.path.exists() else "does not exist"
        raise NotFoundError(f"no bank at {url}: it {reason}; 'casbank init' makes one", kind=ErrorKind.NO_BANK)
    store = _store_of(url, world)
    try:
        return store.get(BANK_NAME)
    except NotFoundError:
        raise NotFoundError(
            f"no bank at {url}: there is no file BANK in it; 'casbank init' makes one", kind=ErrorKind.NO_BANK
        ) from None
    finally:
        # It would keep a file of the bank open, and so its file system busy.
        store.close()


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
        if not _is_unfinished(root):
            raise AlreadyExistsError(f"there is a bank at {root} already", kind=ErrorKind.BANK_EXISTS)
        # An init that was cut off before its first record: nothing was ever in it.
        store = LocalStore(root, world=world)
        for blob in store.list("keys/"):
            store.delete(blob.name)
        store.delete(BANK_NAME)
    elif names - {"tmp"}:
        raise InvalidInputError(f"cannot create a bank in {root}: the folder is not empty")


def _is_unfinished(root: Path) -> bool:
    return not any((root / "packs").glob("*")) and not _has_segments(root)


def _has_segments(root: Path) -> bool:
    return any((root / "journal").glob("*.log"))


def _bank_of_journal(url: BankUrl, world: World) -> bytes:
    """Whose journal is there, as the clear header of its oldest record says."""
    journal: Journal | None = None
    if url.scheme == "local" and _has_segments(url.path):
        journal = LocalJournal(url.path / "journal", world=world, read_only=True, quarantine=url.path / "quarantine")
    elif url.scheme == "memory" and url.name in _memory_banks:
        journal = _memory_banks[url.name][1]
    entry = None if journal is None else next(journal.read(journal.first() - 1), None)
    if url.scheme == "local" and journal is not None:
        journal.close()
    if entry is None:
        raise NotFoundError(f"nothing to recover at {url}: there is no journal", kind=ErrorKind.NO_BANK)
    return decode_header(entry.record).bank_id
