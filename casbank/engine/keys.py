"""The keys of one encrypted bank: made with it, or unlocked when it is opened."""

from dataclasses import dataclass
from typing import NamedTuple

from blake3 import blake3

from casbank.engine.credential import Credential, RecoveryText
from casbank.engine.keyrings import Keyrings
from casbank.engine.keyslots import KeySlots
from casbank.errors import CorruptionError, ErrorKind, KeyMismatchError, NotFoundError
from casbank.format.bank import BANK_COPY_NAME, BANK_NAME, BankDescriptor, decode_bank
from casbank.format.keyring import SECRET_BYTES
from casbank.format.keyslot import KEY_BYTES
from casbank.format.record import Keyring
from casbank.format.recovery import decode_recovery
from casbank.index.transaction import Snapshot
from casbank.sealing.aead import AeadSealing
from casbank.storage.base import Store
from casbank.world import World

_HASH_BYTES = 32
_RETIRED = "retired-key-epoch/"


@dataclass(frozen=True, slots=True)
class BankKeys:
    """What was unlocked."""

    slots: KeySlots
    keyrings: Keyrings
    sealing: AeadSealing
    # BANK as it is stored, for the recovery text.
    bank: bytes


def make_keys(
    store: Store, bank: bytes, credential: Credential, dedup_secret: bytes | None, world: World
) -> tuple[BankKeys, Keyring]:
    """Store the first keyring and slot of a new bank; the operation that makes the keyring official.

    ``dedup_secret`` None draws one.
    """
    keys = _keys(store, bank, world.entropy(KEY_BYTES), world)
    first = keys.keyrings.write_first(dedup_secret or world.entropy(SECRET_BYTES))
    keys.slots.add(credential, keys.keyrings.key, "")
    return keys, first


class Unlocked(NamedTuple):
    """A bank's key, and the id of the slot that gave it; None for a recovery text."""

    key: bytes
    slot_id: bytes | None


def unlock(
    store: Store,
    bank: bytes,
    credential: Credential | RecoveryText,
    world: World,
    removed: frozenset[bytes] = frozenset(),
) -> Unlocked:
    """Find the key of a bank; slots that were ``removed`` do not count. KeyMismatchError (kind KEY_WRONG)."""
    descriptor = decode_bank(bank)
    if isinstance(credential, RecoveryText):
        recovery = decode_recovery(credential.text)
        if decode_bank(recovery.bank).bank_id != descriptor.bank_id:
            raise KeyMismatchError("the recovery text is another bank's", kind=ErrorKind.KEY_WRONG)
        return Unlocked(recovery.key, None)
    key, slot = _slots(store, descriptor, world).unlock(credential, removed)
    return Unlocked(key, slot.id)


def open_keys(store: Store, bank: bytes, unlocked: Unlocked, world: World) -> BankKeys:
    """The keys of a bank that was unlocked.

    Raises CorruptionError (kind KEYRING if no keyring can be read, BANK_DESCRIPTOR if BANK is not the one that they
    belong to).
    """
    keys = _keys(store, bank, unlocked.key, world)
    keys.keyrings.load()
    # Nothing can be read without one, so that is told here and not at the first file.
    assert len(keys.keyrings.dedup_secret) == SECRET_BYTES
    return keys


def removed_key(slot_id: bytes) -> str:
    """The configuration row that says that a slot was removed."""
    return f"removed-key-slot/{slot_id.hex()}"


def is_removed(now: Snapshot, slot_id: bytes) -> bool:
    """Whether a slot was removed, whatever files there are."""
    return now.config(removed_key(slot_id)) is not None


def retired_key(epoch: int) -> str:
    """The configuration row that says that a key epoch was retired."""
    return f"{_RETIRED}{epoch}"


def retired_epochs(now: Snapshot) -> set[int]:
    """The numbers of the key epochs that were retired."""
    keys = [key for key in now.config_keys(_RETIRED) if now.config(key) is not None]
    digits = (key.removeprefix(_RETIRED) for key in keys)
    return {int(text) for text in digits if text.isascii() and text.isdecimal()}


def recovered_bank(recovery: RecoveryText) -> bytes:
    """The id of the bank that a recovery text is of."""
    return decode_bank(decode_recovery(recovery.text).bank).bank_id


def restore_files(store: Store, recovery: RecoveryText, world: World) -> None:
    """Put BANK and the newest keyring back, bit for bit, where they are missing or damaged.

    Raises CorruptionError if there is a whole BANK that is another one.
    """
    known = decode_recovery(recovery.text)
    _keys(store, known.bank, known.key, world).keyrings.check(known.keyring, known.keyring_name)
    _restore(store, BANK_NAME, known.bank)
    _restore(store, BANK_COPY_NAME, known.bank)
    _restore(store, known.keyring_name, known.keyring)


def _restore(store: Store, name: str, data: bytes) -> None:
    try:
        found = store.get(name)
    except NotFoundError:
        found = b""
    if found == data:
        return
    if blake3(found[:-_HASH_BYTES]).digest() == found[-_HASH_BYTES:]:
        raise CorruptionError("a whole file is there that is not the one of the recovery text", file=name)
    store.delete(name)
    store.put_new(name, [data])


def _keys(store: Store, bank: bytes, key: bytes, world: World) -> BankKeys:
    descriptor = decode_bank(bank)
    keyrings = Keyrings(store, bank, key, world)
    sealing = AeadSealing(descriptor.bank_id, descriptor.suite, keyrings)
    return BankKeys(_slots(store, descriptor, world), keyrings, sealing, bank)


def _slots(store: Store, descriptor: BankDescriptor, world: World) -> KeySlots:
    return KeySlots(store, descriptor.bank_id, descriptor.suite, world)
