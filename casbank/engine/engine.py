"""One open bank: its parts put together, once a process.

Rule 1: two opens of one bank in one process share one engine: an LMDB environment must be opened only once.
Rule 2: an engine is of no use in a forked child, and does nothing there.
"""

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from casbank.chunking import make_chunker, parse_profile
from casbank.config import BankUrl, default_cache_dir
from casbank.engine.checkpoint import CheckpointFiles
from casbank.engine.checkpointing import CheckpointKeeper
from casbank.engine.commit import Committer, Decide
from casbank.engine.follow import Follower, IndexPlace
from casbank.engine.packs import PackReader
from casbank.engine.reader import ObjectReader
from casbank.engine.resources import BufferPool, Resources, buffer_bytes
from casbank.errors import (
    AlreadyExistsError,
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    NotFoundError,
    StoreError,
    UnsupportedFormatError,
)
from casbank.format.bank import BANK_NAME, BankDescriptor, bank_hash, decode_bank, encode_bank
from casbank.format.header import SALT_BYTES, Suite
from casbank.format.record import First, Op
from casbank.index.apply import FIRST_KEY, Contents
from casbank.index.transaction import Snapshot
from casbank.index.view import is_in_use, remove_folder
from casbank.journal.base import Journal
from casbank.journal.local import LocalJournal
from casbank.journal.memory import MemoryJournal
from casbank.sealing.checksum import ChecksumSealing
from casbank.sealing.ids import PLAIN_IDS
from casbank.storage.base import Store
from casbank.storage.files import make_folder, translate
from casbank.storage.local import LocalStore
from casbank.storage.memory import MemoryStore
from casbank.storage.mount import refuse_network_file_system
from casbank.world import World

_INDEX = "index"


@dataclass(frozen=True, slots=True)
class _Place:
    """The parts that depend on where a bank is."""

    key: Hashable
    store: Store
    journal: Journal
    index: Path
    # What is removed when the engine closes.
    temporary: "tempfile.TemporaryDirectory[str] | None" = None


class Engine:
    """Store, journal, index and threads of one bank, shared by every :class:`casbank.Bank` of this process."""

    def __init__(self, place: _Place, descriptor: BankDescriptor, world: World) -> None:
        sealing = ChecksumSealing(descriptor.bank_id)
        chunker = make_chunker(parse_profile(descriptor.chunking))
        packs = PackReader(place.store, sealing)
        self._place = place
        self.key = place.key
        self.descriptor = descriptor
        self.world = world
        self.journal = place.journal
        self._pid = os.getpid()
        self._closed = False
        scratch = _scratch_folder(place.index.parent)
        files = CheckpointFiles(place.store, sealing, scratch)
        index = IndexPlace(place.index)
        self.follower = Follower(
            journal=place.journal, sealing=sealing, packs=packs, checkpoints=files, index=index, world=world
        )
        self._committer = Committer(place.journal, self.follower, sealing, world)
        self.checkpoints = CheckpointKeeper(
            journal=place.journal, follower=self.follower, committer=self._committer, files=files, world=world
        )
        self.resources = Resources(
            store=place.store,
            sealing=sealing,
            ids=PLAIN_IDS,
            chunker=chunker,
            compression=descriptor.compression,
            packs=packs,
            follower=self.follower,
            commit=self.commit,
            check_usable=self.check_usable,
            world=world,
            buffers=BufferPool(buffer_bytes(chunker)),
        )
        self.reader = ObjectReader(self.resources)

    def commit(self, decide: Decide, contents: dict[bytes, Contents] | None = None) -> int:
        """Append one record (see :class:`Committer`), and begin a checkpoint if one is due."""
        if self.descriptor.read_only_compatible:
            raise UnsupportedFormatError("the bank has a feature that this casbank cannot write; it can be read")
        version = self._committer.commit(decide, contents)
        self.checkpoints.consider(self.follower.seen)
        return version

    def check_first(self, expected: bytes) -> None:
        """Compare the journal's first record with BANK: a wrong or restored journal must not pass for this bank's."""
        self.follower.catch_up()
        with self.follower.read() as snapshot:
            found = snapshot.config(FIRST_KEY)
        if found is None:
            raise NotFoundError("creating this bank was interrupted; run 'casbank init' again", kind=ErrorKind.NO_BANK)
        if found != expected:
            raise CorruptionError("the journal is another bank's", kind=ErrorKind.JOURNAL)

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
        self.checkpoints.wait()
        self._closed = True
        self.resources.close()
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


def create_engine(url: BankUrl, descriptor: BankDescriptor, world: World, cache_dir: Path | None) -> Engine:
    """Create a bank and open it. Raises AlreadyExistsError, InvalidInputError for a folder in use, StoreError."""
    data = encode_bank(descriptor, world.entropy(SALT_BYTES))

    def make() -> Engine:
        first = First(descriptor.bank_id, bank_hash(data))
        with _closing_on_error(Engine(_place(url, descriptor, world, cache_dir), descriptor, world)) as engine:
            engine.commit(lambda now: _if_empty(now, first))
            engine.check_first(first.bank_hash)
        return engine

    with _creating(url):
        if url.scheme == "local":
            _prepare_folder(url.path, world)
        elif url.name in _memory_banks:
            raise AlreadyExistsError("a bank of this name exists in memory", kind=ErrorKind.BANK_EXISTS, bank=str(url))
        else:
            _memory_banks[url.name] = MemoryStore(world=world), MemoryJournal()
        _store_of(url, world).put_new(BANK_NAME, [data])
        return _take(url, descriptor, make)


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


def open_engine(url: BankUrl, world: World, cache_dir: Path | None) -> Engine:
    """Open a bank that exists. Raises NotFoundError (kind NO_BANK), CorruptionError, UnsupportedFormatError,
    StoreError."""
    data = _read_bank(url, world)
    descriptor = decode_bank(data)
    if descriptor.suite is not Suite.CHECKSUM:
        raise UnsupportedFormatError("this bank is encrypted, which this casbank cannot open yet", bank=str(url))
    if descriptor.journal is not None:
        raise UnsupportedFormatError("this bank's journal is not on this disk; this casbank cannot open it yet")

    def make() -> Engine:
        with _closing_on_error(Engine(_place(url, descriptor, world, cache_dir), descriptor, world)) as engine:
            engine.check_first(bank_hash(data))
        return engine

    return _take(url, descriptor, make)


def _take(url: BankUrl, descriptor: BankDescriptor, make: Callable[[], Engine]) -> Engine:
    engine = _registry.take(_key(url), make)
    if engine.descriptor.bank_id != descriptor.bank_id:
        _registry.give(engine)
        raise StoreError("a bank that was open here was deleted or replaced: close it first", bank=str(url))
    return engine


def close_engine(engine: Engine) -> None:
    """Give back what ``create_engine`` or ``open_engine`` returned."""
    _registry.give(engine)


def drop_index(url: BankUrl, world: World, cache_dir: Path | None) -> None:
    """Remove the index of a bank that nobody has open; the next one to open it rebuilds it.

    Raises StoreError if somebody has.
    """
    descriptor = decode_bank(_read_bank(url, world))
    folder = _index_folder(url, descriptor, cache_dir)
    if _registry.has(_key(url)) or is_in_use(folder):
        raise StoreError("the bank is open; close it first, or use 'casbank index rebuild'", bank=str(url))
    remove_folder(folder)


@contextmanager
def _closing_on_error(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    except BaseException:
        engine.close()
        raise


def _scratch_folder(path: Path) -> Path:
    try:
        make_folder(path)
    except OSError as error:
        raise translate(error, "cannot use this folder for the index", path=path) from error
    return path


def _if_empty(now: Snapshot, first: First) -> list[Op]:
    return [first] if now.state() is None else []


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
        return _Place(_key(url), store, journal, Path(temporary.name) / _INDEX, temporary)
    root = url.path
    refuse_network_file_system(root)
    read_only = not os.access(root, os.W_OK)
    local = LocalStore(root, world=world, read_only=read_only)
    if not read_only:
        local.clean()
    log = LocalJournal(root / "journal", world=world, read_only=read_only, quarantine=root / "quarantine")
    return _Place(_key(url), local, log, _index_folder(url, descriptor, cache_dir))


def _index_folder(url: BankUrl, descriptor: BankDescriptor, cache_dir: Path | None) -> Path:
    """In the bank, unless the caller wants it elsewhere or the bank cannot be written to."""
    if cache_dir is None and os.access(url.path, os.W_OK):
        return url.path / _INDEX
    return (cache_dir or default_cache_dir()) / descriptor.bank_id.hex() / _INDEX


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
        LocalStore(root, world=world).delete(BANK_NAME)
    elif names - {"tmp"}:
        raise InvalidInputError(f"cannot create a bank in {root}: the folder is not empty")


def _is_unfinished(root: Path) -> bool:
    return not any((root / "packs").glob("*")) and not any((root / "journal").glob("*.log"))
