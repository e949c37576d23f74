"""The keyrings of one bank, opened with its key: where the secrets of key epochs are found.

Rule 1: reading needs no official keyring: any that opens with the bank's key may give a secret, and the commitment in
each file's header says whether it is the right one. So a rotation that died or lost a race hurts nobody.
Rule 2: writing needs the official one: an epoch may be used only behind its KEYRING operation.
Rule 3: an unknown epoch makes us look for new keyrings, once each time it is met.
"""

import logging
import threading
from collections.abc import Sequence
from typing import NamedTuple

from casbank import limits
from casbank.engine.salt import fresh_salt
from casbank.errors import (
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    NotFoundError,
    UnsupportedFormatError,
)
from casbank.format.bank import bank_hash, decode_bank
from casbank.format.header import Header, Kind, decode_header, sequence_id
from casbank.format.keyring import (
    SECRET_BYTES,
    EpochSecret,
    KeyringFile,
    decode_keyring,
    encode_keyring,
    keyring_hash,
    keyring_name,
)
from casbank.format.record import Keyring
from casbank.sealing.aead import make_seal, open_seal
from casbank.storage.base import Store
from casbank.world import World

_log = logging.getLogger(__name__)
_PREFIX = "keys/keyring-"


class _Known(NamedTuple):
    """A keyring that was read: the hash and the bytes of its file, and what is in it."""

    hash: bytes
    data: bytes
    content: KeyringFile


class Keyrings:
    """The secrets of one bank; for any thread."""

    def __init__(self, store: Store, bank: bytes, key: bytes, world: World) -> None:
        """``bank`` is the file BANK, ``key`` the bank's key."""
        descriptor = decode_bank(bank)
        self._store = store
        self._bank_id = descriptor.bank_id
        self._suite = descriptor.suite
        self._bank_hash = bank_hash(bank)
        self._key = key
        self._world = world
        self._mutex = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._official: Keyring | None = None

    # --- what sealing asks -------------------------------------------------------------------------------------

    def current(self) -> tuple[int, bytes]:
        """Number and secret of the epoch in which new files are sealed. CorruptionError (kind KEYRING)."""
        # None before record 1 is applied: there is only the first one then.
        known = self._any() if self._official is None else self._named(self._official)
        newest = known.content.epochs[-1]
        return newest.number, newest.secret

    def secrets(self, number: int) -> Sequence[bytes]:
        """What an epoch's secret can be."""
        found = self._secrets(number)
        if not found:
            self.load()
            found = self._secrets(number)
        return found

    # --- the files ---------------------------------------------------------------------------------------------

    @property
    def dedup_secret(self) -> bytes:
        """From which ids and the gear table are derived; the same in every keyring."""
        return self._any().content.dedup_secret

    @property
    def key(self) -> bytes:
        """The bank's key, under which keyrings are sealed."""
        return self._key

    def use(self, official: Keyring) -> None:
        """From here on this keyring is the official one."""
        self._official = official

    def read(self, keyring: Keyring) -> tuple[bytes, KeyringFile]:
        """The bytes of a keyring that a KEYRING operation names, and what is in it. CorruptionError (kind KEYRING)."""
        known = self._named(keyring)
        return known.data, known.content

    def load(self) -> None:
        """Read the keyrings that are not known yet."""
        with self._mutex:
            names = [blob.name for blob in self._store.list(_PREFIX)]
            for name in names[: limits.KEYRINGS_MAX]:
                if name not in self._known:
                    self._read(name)

    def write_first(self, dedup_secret: bytes) -> Keyring:
        """Store the keyring of a new bank."""
        epoch = EpochSecret(1, self._world.entropy(SECRET_BYTES), self._world.now_ns())
        return self._write(KeyringFile(1, self._bank_hash, (self._suite,), dedup_secret, (epoch,)))

    def write_next(self, base: Keyring) -> Keyring:
        """Store a keyring with one more epoch than ``base`` has; a KEYRING operation makes it official."""
        before = self._named(base).content
        if len(before.epochs) >= limits.KEY_EPOCHS_MAX:
            raise InvalidInputError(f"a bank has at most {limits.KEY_EPOCHS_MAX} key epochs")
        epoch = EpochSecret(before.number + 1, self._world.entropy(SECRET_BYTES), self._world.now_ns())
        return self._write(before._replace(number=epoch.number, epochs=(*before.epochs, epoch)))

    def forget(self, keyring: Keyring) -> None:
        """Remove one that did not become official, and never can."""
        with self._mutex:
            self._known.pop(keyring.name, None)
        self._store.delete(keyring.name)

    def check(self, data: bytes, name: str) -> KeyringFile:
        """What is in a keyring's bytes. Raises CorruptionError, UnsupportedFormatError."""
        header = decode_header(data)
        if (header.kind, header.suite, header.bank_id) != (Kind.KEYRING, self._suite, self._bank_id):
            raise CorruptionError("a keyring is another file, or another bank's", kind=ErrorKind.KEYRING, file=name)
        seal = open_seal([self._key], header, data)
        if seal is None:
            raise CorruptionError("a keyring is not of this bank's key", kind=ErrorKind.KEYRING, file=name)
        content = decode_keyring(data, seal)
        if content.bank_hash != self._bank_hash or content.suites != (self._suite,):
            raise CorruptionError(
                "the file BANK is not the one that the bank was created with", kind=ErrorKind.BANK_DESCRIPTOR
            )
        return content

    def _read(self, name: str) -> None:
        try:
            data = self._store.get(name, 0, limits.KEYRING_BYTES_MAX + 1)
            self._known[name] = _Known(keyring_hash(data), data, self.check(data, name))
        except NotFoundError:
            # Another client's rotation lost a race.
            return
        except (CorruptionError, UnsupportedFormatError) as error:
            if error.kind is ErrorKind.BANK_DESCRIPTOR:
                raise
            _log.warning("keyring %s is of no use: %s", name, error)

    def _write(self, content: KeyringFile) -> Keyring:
        header = Header(Kind.KEYRING, self._suite, self._bank_id, sequence_id(content.number), fresh_salt(self._world))
        data = encode_keyring(content, make_seal(self._key, header))
        name = keyring_name(content.number, self._world.entropy(8))
        self._store.put_new(name, [data])
        if self._store.get(name) != data:
            raise CorruptionError("a new keyring was not stored as it is", kind=ErrorKind.KEYRING, file=name)
        with self._mutex:
            self._known[name] = _Known(keyring_hash(data), data, content)
        return Keyring(content.number, name, keyring_hash(data))

    def _named(self, keyring: Keyring) -> _Known:
        if keyring.name not in self._known:
            self.load()
        known = self._known.get(keyring.name)
        if known is None or known.hash != keyring.file_hash:
            raise CorruptionError("the newest keyring is missing or damaged", kind=ErrorKind.KEYRING, file=keyring.name)
        return known

    def _any(self) -> _Known:
        first = next(iter(self._known.values()), None)
        if first is None:
            raise CorruptionError("no keyring of this bank can be read", kind=ErrorKind.KEYRING)
        return first

    def _secrets(self, number: int) -> list[bytes]:
        found = dict.fromkeys(
            epoch.secret
            for known in list(self._known.values())
            for epoch in known.content.epochs
            if epoch.number == number
        )
        return list(found)
