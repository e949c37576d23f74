"""The keyrings of one bank, opened with its key: where the secrets of key epochs are found.

Rule 1: reading needs no official keyring: any that opens with the bank's key may give a secret, and the commitment in
each file's header says whether it is the right one. So a rotation that died or lost a race hurts nobody.
Rule 2: writing needs the official one: an epoch may be used only behind its KEYRING operation.
Rule 3: a file that no known secret opens makes us look for new keyrings, once each time it is met.
"""

import logging
import threading
from collections.abc import Sequence

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
_DIGITS_MAX = 10


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
        self._read: dict[str, int] = {}
        self._secrets: dict[int, list[bytes]] = {}
        self._dedup_secret: bytes | None = None
        self._official: Keyring | None = None
        self._current: tuple[int, bytes] | None = None

    # --- what sealing asks -------------------------------------------------------------------------------------

    def current(self) -> tuple[int, bytes]:
        """Number and secret of the epoch in which new files are sealed. CorruptionError (kind KEYRING)."""
        current = self._current
        if current is None:
            if self._official is None:
                raise CorruptionError("no keyring of this bank is official", kind=ErrorKind.KEYRING)
            newest = self.read(self._official)[1].epochs[-1]
            self._current = current = newest.number, newest.secret
        return current

    def secrets(self, number: int, *, look_again: bool = False) -> Sequence[bytes]:
        """What an epoch's secret can be, as far as is known; ``look_again`` in the store for others first."""
        if look_again:
            self.load()
        return tuple(self._secrets.get(number, ()))

    # --- the files ---------------------------------------------------------------------------------------------

    @property
    def dedup_secret(self) -> bytes:
        """From which ids and the gear table are derived; the same in every keyring. CorruptionError (kind KEYRING)."""
        if self._dedup_secret is None:
            raise CorruptionError("no keyring of this bank can be read", kind=ErrorKind.KEYRING)
        return self._dedup_secret

    @property
    def key(self) -> bytes:
        """The bank's key, under which keyrings are sealed."""
        return self._key

    def use(self, official: Keyring) -> None:
        """From here on this keyring is the official one."""
        if official != self._official:
            self._official, self._current = official, None

    def read(self, keyring: Keyring) -> tuple[bytes, KeyringFile]:
        """The bytes of a keyring that a KEYRING operation names, and what is in it. CorruptionError (kind KEYRING)."""
        try:
            data = self._store.get(keyring.name, 0, limits.KEYRING_BYTES_MAX + 1)
        except NotFoundError:
            data = b""
        if keyring_hash(data) != keyring.file_hash:
            raise CorruptionError("the newest keyring is missing or damaged", kind=ErrorKind.KEYRING, file=keyring.name)
        content = self.check(data, keyring.name)
        if content.number != keyring.number:
            raise CorruptionError("a keyring is of another epoch", kind=ErrorKind.KEYRING, file=keyring.name)
        self._learn(content)
        return data, content

    def found(self, number: int) -> Keyring | None:
        """A keyring of that number, by what lies in the store: for a salvage that lost the record that named it."""
        for blob in self._store.list(f"{_PREFIX}{number}-"):
            try:
                data = self._store.get(blob.name, 0, limits.KEYRING_BYTES_MAX + 1)
                self.check(data, blob.name)
            except (NotFoundError, CorruptionError, UnsupportedFormatError):
                continue
            return Keyring(number, blob.name, keyring_hash(data))
        return None

    def load(self) -> None:
        """Read the keyrings of the highest number that can be read: each has the secrets of every epoch before."""
        with self._mutex:
            names = [blob.name for blob in self._store.list(_PREFIX)]
            numbered = sorted(((_number(name), name) for name in names), reverse=True)[: limits.KEYRINGS_MAX]
            highest = 0
            for number, name in numbered:
                if number < highest:
                    return
                highest = max(highest, self._read.get(name) or self._take(name))

    def write_first(self, dedup_secret: bytes) -> Keyring:
        """Store the keyring of a new bank, and use it."""
        epoch = EpochSecret(1, self._world.entropy(SECRET_BYTES), self._world.now_ns())
        self._current = epoch.number, epoch.secret
        return self._write(KeyringFile(1, self._bank_hash, (self._suite,), dedup_secret, (epoch,)))

    def write_next(self, base: Keyring) -> Keyring:
        """Store a keyring with one more epoch than ``base`` has; a KEYRING operation makes it official."""
        _, before = self.read(base)
        if len(before.epochs) >= limits.KEY_EPOCHS_MAX:
            raise InvalidInputError(f"a bank has at most {limits.KEY_EPOCHS_MAX} key epochs")
        epoch = EpochSecret(before.number + 1, self._world.entropy(SECRET_BYTES), self._world.now_ns())
        return self._write(before._replace(number=epoch.number, epochs=(*before.epochs, epoch)))

    def forget(self, keyring: Keyring) -> None:
        """Remove one that did not become official, and never can."""
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

    def _take(self, name: str) -> int:
        """Read one, and learn what is in it; its number, 0 if it cannot be read."""
        try:
            content = self.check(self._store.get(name, 0, limits.KEYRING_BYTES_MAX + 1), name)
        except NotFoundError:
            # Another client's rotation lost a race.
            return 0
        except (CorruptionError, UnsupportedFormatError) as error:
            if error.kind is ErrorKind.BANK_DESCRIPTOR:
                raise
            _log.warning("keyring %s is of no use: %s", name, error)
            return 0
        self._read[name] = content.number
        self._learn(content)
        return content.number

    def _learn(self, content: KeyringFile) -> None:
        self._dedup_secret = content.dedup_secret
        for epoch in content.epochs:
            known = self._secrets.get(epoch.number, [])
            if epoch.secret not in known:
                # A new list: readers do not hold the mutex.
                self._secrets[epoch.number] = [*known, epoch.secret]

    def _write(self, content: KeyringFile) -> Keyring:
        header = Header(Kind.KEYRING, self._suite, self._bank_id, sequence_id(content.number), fresh_salt(self._world))
        data = encode_keyring(content, make_seal(self._key, header))
        name = keyring_name(content.number, self._world.entropy(8))
        self._store.put_new(name, [data])
        if self._store.get(name) != data:
            raise CorruptionError("a new keyring was not stored as it is", kind=ErrorKind.KEYRING, file=name)
        self._learn(content)
        return Keyring(content.number, name, keyring_hash(data))


def _number(name: str) -> int:
    """The number in a keyring's name, for the order of reading only: it promises nothing."""
    digits = name.removeprefix(_PREFIX).partition("-")[0]
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS_MAX else 0
