"""Changing the keys of an open bank: slots, epochs, and the text that recovers it.

Rule 1: the journal decides. That a slot is removed, or an epoch begun or retired, is a record, so two clients that
change keys at once see each other.
Rule 2: files come before the record that names them, and go after it: a crash leaves one too many, never one too few.
"""

from casbank import limits
from casbank.engine.credential import Credential
from casbank.engine.engine import Engine
from casbank.engine.keys import BankKeys, is_removed, removed_key, retired_epochs, retired_key
from casbank.errors import ConflictError, CorruptionError, ErrorKind, InvalidInputError, KeyMismatchError, NotFoundError
from casbank.format.keyslot import KeySlot, key_slot_name
from casbank.format.record import Config, Keyring, Op
from casbank.format.recovery import Recovery, encode_recovery
from casbank.index.apply import KEYRING_KEY, official_keyring
from casbank.index.transaction import Snapshot
from casbank.model import KeyEpoch

# Each one lost means that somebody else began an epoch.
_ROTATE_ATTEMPTS = 100


def keys_of(engine: Engine) -> BankKeys:
    """KeyMismatchError (kind NOT_ENCRYPTED) if there are none."""
    if engine.keys is None:
        raise KeyMismatchError("this bank is not encrypted: it has no keys", kind=ErrorKind.NOT_ENCRYPTED)
    return engine.keys


def slots(engine: Engine) -> list[KeySlot]:
    """The slots that open the bank, the oldest first."""
    keys = keys_of(engine)
    engine.follower.catch_up()
    with engine.follower.read() as snapshot:
        return _valid(keys, snapshot)


def add_slot(engine: Engine, credential: Credential, label: str) -> KeySlot:
    """Let one more credential open the bank. InvalidInputError if there are too many slots."""
    keys = keys_of(engine)
    engine.check_writable()
    valid = {slot.id for slot in slots(engine)}
    if len(valid) >= limits.KEY_SLOTS_MAX:
        raise InvalidInputError(f"a bank has at most {limits.KEY_SLOTS_MAX} key slots; remove one first")
    for slot in keys.slots.all():
        if slot.id not in valid:
            # Removed by somebody who was cut off before the file went.
            keys.slots.store.delete(key_slot_name(slot.id))
    return keys.slots.add(credential, keys.keyrings.key, label)


def remove_slot(engine: Engine, slot_id: bytes) -> None:
    """Let a slot open the bank no longer. NotFoundError (kind NO_KEY); InvalidInputError for the last one."""
    keys = keys_of(engine)

    def decide(now: Snapshot) -> list[Op]:
        valid = [slot.id for slot in _valid(keys, now)]
        if slot_id not in valid:
            raise NotFoundError("no such key slot", kind=ErrorKind.NO_KEY, slot=slot_id)
        if len(valid) == 1:
            raise InvalidInputError("this is the last key slot: without it nobody could open the bank again")
        return [Config(removed_key(slot_id), engine.world.now_ns())]

    engine.commit(decide)
    keys.slots.store.delete(key_slot_name(slot_id))


def rotate(engine: Engine) -> int:
    """Begin a key epoch; its number."""
    keyrings = keys_of(engine).keyrings
    engine.check_writable()
    for _ in range(_ROTATE_ATTEMPTS):
        engine.follower.catch_up()
        base = _official(engine)
        made = keyrings.write_next(base)

        def decide(now: Snapshot, base: Keyring = base, made: Keyring = made) -> list[Op]:
            return [made] if _official_at(now) == base else []

        if engine.commit(decide):
            return made.number
        # Somebody else's is official. Only here: where the outcome is unknown, it may be this one.
        keyrings.forget(made)
    raise ConflictError("others begin key epochs faster than this one could")


def retire(engine: Engine, number: int) -> None:
    """Mark an epoch: the collector seals what is left of it again. NotFoundError (kind NO_KEY); InvalidInputError for
    the current one."""
    keys_of(engine)
    if type(number) is not int:
        raise InvalidInputError(f"not the number of a key epoch: {number!r}")

    def decide(now: Snapshot) -> list[Op]:
        current = _official_at(now).number
        if number == current:
            raise InvalidInputError(f"key epoch {number} is the current one; rotate first")
        if not 1 <= number < current:
            raise NotFoundError("no such key epoch", kind=ErrorKind.NO_KEY, epoch=number)
        key = retired_key(number)
        return [] if now.config(key) is not None else [Config(key, engine.world.now_ns())]

    engine.commit(decide)


def epochs(engine: Engine) -> list[KeyEpoch]:
    """Every key epoch, the oldest first."""
    keys = keys_of(engine)
    engine.follower.catch_up()
    _, newest = keys.keyrings.read(_official(engine))
    with engine.follower.read() as snapshot:
        retired = retired_epochs(snapshot)
    return [
        KeyEpoch(epoch.number, epoch.created_ns, epoch.number == newest.number, epoch.number in retired)
        for epoch in newest.epochs
    ]


def recovery_text(engine: Engine) -> str:
    """All that is needed to open the bank without ``BANK`` and ``keys/``. Whoever has it has the bank."""
    keys = keys_of(engine)
    engine.follower.catch_up()
    newest = _official(engine)
    data, _ = keys.keyrings.read(newest)
    return encode_recovery(Recovery(keys.bank, keys.keyrings.key, newest.name, data))


def _official(engine: Engine) -> Keyring:
    with engine.follower.read() as snapshot:
        return _official_at(snapshot)


def _official_at(now: Snapshot) -> Keyring:
    official = official_keyring(now.config(KEYRING_KEY))
    if official is None:
        raise CorruptionError("the journal of an encrypted bank names no keyring", kind=ErrorKind.JOURNAL)
    return official


def _valid(keys: BankKeys, now: Snapshot) -> list[KeySlot]:
    return [slot for slot in keys.slots.all() if not is_removed(now, slot.id)]
