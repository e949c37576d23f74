"""Creating, opening and recovering banks; which of them are open in this process.

Rule: two opens of one bank in one process share one engine: an LMDB environment must be opened only once.
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from casbank.config import BankUrl
from casbank.engine.credential import Credential, RecoveryText
from casbank.engine.engine import Engine
from casbank.engine.keys import Unlocked, make_keys, open_keys, recovered_bank, restore_files, unlock
from casbank.engine.place import (
    bank_key,
    bank_of_journal,
    creating,
    give_up,
    head_file,
    index_folder,
    open_place,
    prepare,
    read_bank,
    store_of,
)
from casbank.engine.salt import fresh_salt
from casbank.errors import ErrorKind, KeyMismatchError, StoreError, UnsupportedFormatError
from casbank.format.bank import BANK_COPY_NAME, BANK_NAME, BankDescriptor, bank_hash, decode_bank, encode_bank
from casbank.format.header import Suite
from casbank.format.record import First, Op
from casbank.index.view import is_in_use, remove_folder
from casbank.storage.files import translate
from casbank.world import World


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
        place = open_place(url, descriptor, world, cache_dir)
        with _if_it_fails(place.close):
            if credential is not None:
                keys, keyring = make_keys(place.store, data, credential, dedup_secret, world)
                first.append(keyring)
            engine = Engine(place, descriptor, world, keys)
        with _if_it_fails(engine.close):
            engine.commit(lambda now: first if now.state() is None else [])
            engine.check_first(bank_hash(data))
        return engine

    with creating(url):
        prepare(url, world)
        store = store_of(url, world)
        store.put_new(BANK_NAME, [data])
        store.put_new(BANK_COPY_NAME, [data])
        with _if_it_fails(lambda: give_up(url)):
            return _take(url, descriptor, make)


def open_engine(
    url: BankUrl, world: World, cache_dir: Path | None, credential: Credential | RecoveryText | None = None
) -> Engine:
    """Open a bank that exists. Raises NotFoundError (kind NO_BANK), KeyMismatchError, CorruptionError,
    UnsupportedFormatError, StoreError."""
    data = read_bank(url, world)
    descriptor = decode_bank(data)
    if descriptor.journal is not None:
        raise UnsupportedFormatError("this bank's journal is not on this disk; this casbank cannot open it yet")
    _check_given(descriptor, credential)
    removed: frozenset[bytes] = frozenset()
    while True:
        unlocked = None if credential is None else _unlock(url, data, credential, world, removed)

        def make(unlocked: Unlocked | None = unlocked) -> Engine:
            place = open_place(url, descriptor, world, cache_dir)
            with _if_it_fails(place.close):
                keys = None if unlocked is None else open_keys(place.store, data, unlocked, world)
                engine = Engine(place, descriptor, world, keys)
            with _if_it_fails(engine.close):
                engine.check_history()
                engine.check_first(bank_hash(data))
            return engine

        engine = _take(url, descriptor, make)
        slot_id = None if unlocked is None else unlocked.slot_id
        with _if_it_fails(partial(close_engine, engine)):
            if slot_id is None or not engine.has_removed(slot_id):
                return engine
        # Somebody put back the file of a slot that was removed; the same key may have another one.
        _registry.give(engine)
        removed |= {slot_id}


def _unlock(
    url: BankUrl, data: bytes, credential: Credential | RecoveryText, world: World, removed: frozenset[bytes]
) -> Unlocked:
    store = store_of(url, world)
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
    if bank_of_journal(url, world) != recovered_bank(recovery):
        raise KeyMismatchError("the recovery text is another bank's", kind=ErrorKind.KEY_WRONG)
    store = store_of(url, world)
    try:
        restore_files(store, recovery, world)
    finally:
        store.close()
    engine = open_engine(url, world, cache_dir, recovery)
    with _if_it_fails(partial(close_engine, engine)):
        assert engine.keys is not None
        engine.check_writable()
        engine.keys.slots.add(credential, engine.keys.keyrings.key, "")
    return engine


def _take(url: BankUrl, descriptor: BankDescriptor, make: Callable[[], Engine]) -> Engine:
    engine = _registry.take(bank_key(url), make)
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
    descriptor = decode_bank(read_bank(url, world))
    folder = index_folder(url, descriptor, cache_dir)
    if _registry.has(bank_key(url)) or is_in_use(folder):
        raise StoreError("the bank is open; close it first, or use 'casbank index rebuild'", bank=str(url))
    remove_folder(folder)
    head = head_file(descriptor, cache_dir)
    if forget_head and head is not None:
        try:
            head.unlink(missing_ok=True)
        except OSError as error:
            raise translate(error, "cannot forget what was seen of this bank", path=head) from error


@contextmanager
def _if_it_fails(undo: Callable[[], None]) -> Iterator[None]:
    """Undo what was begun, whatever ends it: an interrupt too."""
    try:
        yield
    except BaseException:
        undo()
        raise
