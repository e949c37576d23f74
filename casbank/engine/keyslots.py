"""The key slots of one bank: its key, wrapped once for each passphrase, key file or command.

Rule 1: a slot that cannot be read is passed over, with a warning: it must not keep out who has another one.
Rule 2: a new slot is read back and opened, from its stored bytes, before anybody relies on it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from casbank import limits
from casbank.engine.credential import Credential
from casbank.engine.salt import fresh_salt
from casbank.errors import (
    AlreadyExistsError,
    CasbankError,
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    KeyMismatchError,
    NotFoundError,
    StoreError,
    UnsupportedFormatError,
)
from casbank.format.header import ID_BYTES, Header, Kind, Suite, parse_id
from casbank.format.keyslot import KeySlot, decode_key_slot, encode_key_slot, is_label, key_slot_name, open_key
from casbank.sealing.aead import make_seal, open_seal
from casbank.storage.base import Store
from casbank.world import World

_log = logging.getLogger(__name__)
_FOLDER = "keys/"


@dataclass(frozen=True, slots=True)
class KeySlots:
    """The slot files in the store of one bank."""

    store: Store
    bank_id: bytes
    suite: Suite
    world: World

    def all(self) -> list[KeySlot]:
        """Every slot that can be read, the oldest first."""
        return sorted(self._readable(), key=lambda slot: (slot.created_ns, slot.id))

    def unlock(self, credential: Credential, removed: frozenset[bytes] = frozenset()) -> tuple[bytes, KeySlot]:
        """The bank's key, and the slot that gave it, which is none of those that were ``removed``.

        Raises KeyMismatchError (kind KEY_WRONG) if no slot opens.
        """
        failure: CasbankError | None = None
        for slot in self.all():
            try:
                key = None if slot.id in removed else self._opened(slot, credential)
            except (KeyMismatchError, CorruptionError, StoreError) as error:
                # Rule 1. Another command's slot, or one that somebody forged, or that wants more memory than there is.
                _log.info("key slot %s was passed over: %s", slot.id.hex(), error)
                failure, key = error, None
            if key is not None:
                return key, slot
        if isinstance(failure, KeyMismatchError | StoreError):
            raise failure
        raise KeyMismatchError("no key slot of this bank opens with this key", kind=ErrorKind.KEY_WRONG)

    def add(self, credential: Credential, key: bytes, label: str) -> KeySlot:
        """Store a slot that opens with ``credential``; durable, and proved, when it returns."""
        if not is_label(label):
            raise InvalidInputError("a label is a printable text of at most 255 bytes")
        slot_id, salt = self.world.entropy(ID_BYTES), fresh_salt(self.world)
        parameters, secret = credential.enrol(self.world, salt)
        seal = make_seal(secret, Header(Kind.KEY_SLOT, self.suite, self.bank_id, slot_id, salt))
        name = key_slot_name(slot_id)
        try:
            self.store.put_new(name, [encode_key_slot(parameters, self.world.now_ns(), label, key, seal)])
        except AlreadyExistsError as error:
            raise CorruptionError("a new key slot's random name is taken", kind=ErrorKind.KEY_SLOT) from error
        try:
            made = decode_key_slot(self.store.get(name))
            if self._opened(made, credential) != key:
                raise KeyMismatchError("a new key slot does not open with its own key", kind=ErrorKind.KEY_WRONG)
        # An interrupt too: a slot that was not proved is not left to be relied on.
        except BaseException:
            self.store.delete(name)
            raise
        return made

    def _readable(self) -> Iterator[KeySlot]:
        useless: list[str] = []
        names = (blob.name for blob in self.store.list(_FOLDER) if _is_slot(blob.name))
        for name in islice(names, limits.KEY_FILES_MAX):
            try:
                yield self._read(name)
            except NotFoundError:
                # Removed meanwhile.
                continue
            except (CorruptionError, UnsupportedFormatError, StoreError) as error:
                useless.append(f"{name}: {error}")
        if useless:
            _log.warning("key slots that are of no use: %d, the first of them %s", len(useless), useless[0])

    def _read(self, name: str) -> KeySlot:
        slot = decode_key_slot(self.store.get(name, 0, limits.KEY_SLOT_BYTES_MAX + 1))
        if (slot.header.suite, slot.header.bank_id, key_slot_name(slot.id)) != (self.suite, self.bank_id, name):
            raise CorruptionError("it is another bank's, or another slot's", kind=ErrorKind.KEY_SLOT)
        return slot

    def _opened(self, slot: KeySlot, credential: Credential) -> bytes | None:
        secret = credential.secret(slot)
        seal = None if secret is None else open_seal([secret], slot.header, slot.header_bytes)
        return None if seal is None else open_key(slot, seal)


def _is_slot(name: str) -> bool:
    return parse_id(name.removeprefix(_FOLDER)) is not None
