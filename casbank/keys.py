"""The keys of an encrypted bank, as its user sees them: ``bank.keys``."""

import builtins
import os
from collections.abc import Callable, Sequence

from casbank.engine import keychange
from casbank.engine.credential import credential_of
from casbank.engine.engine import Engine
from casbank.errors import InvalidInputError
from casbank.format.header import parse_id
from casbank.format.keyslot import KeySlot
from casbank.model import KeyEpoch, KeySlotInfo


class Keys:
    """Slots, which open a bank, and epochs, in which it is sealed.

    Every method raises KeyMismatchError (kind NOT_ENCRYPTED) for a bank without keys.
    """

    def __init__(self, readable: Callable[[], Engine], writable: Callable[[], Engine]) -> None:
        self._readable = readable
        self._writable = writable

    def slots(self) -> list[KeySlotInfo]:
        """The key slots, the oldest first. Slots that cannot be read are left out, with a warning in the log."""
        return [_info(slot) for slot in keychange.slots(self._readable())]

    def add(
        self,
        *,
        passphrase: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        key_command: Sequence[str] | None = None,
        label: str = "",
    ) -> KeySlotInfo:
        """Let one more passphrase, key file or command open the bank; read back and proved when it returns.

        To change a passphrase, add the new one and remove the slot of the old one.

        Raises InvalidInputError (also for a 33rd slot), StoreError, KeyMismatchError for a command that fails.
        """
        credential = credential_of(passphrase, key_file, key_command)
        if credential is None:
            raise InvalidInputError("a new key is a passphrase, a key_file or a key_command")
        return _info(keychange.add_slot(self._writable(), credential, label))

    def remove(self, slot_id: str) -> None:
        """Let a slot open the bank no longer.

        Who has a copy of the slot's file and its secret can still read copies of the bank. Raises NotFoundError (kind
        NO_KEY), InvalidInputError for the last slot.
        """
        known = parse_id(slot_id) if isinstance(slot_id, str) else None
        if known is None:
            raise InvalidInputError(f"not the id of a key slot: {slot_id!r}")
        keychange.remove_slot(self._writable(), known)

    def rotate(self) -> int:
        """Begin a key epoch, and return its number: what is written from now on is sealed with new secrets.

        What is stored stays readable. Export a new recovery text afterwards.
        """
        return keychange.rotate(self._writable())

    def retire(self, epoch: int) -> None:
        """Mark an epoch, so that the collector seals its packs anew. Idempotent.

        Raises NotFoundError (kind NO_KEY), InvalidInputError for the current epoch.
        """
        keychange.retire(self._writable(), epoch)

    def epochs(self) -> builtins.list[KeyEpoch]:
        """The key epochs, the oldest first."""
        return keychange.epochs(self._readable())

    def export(self) -> str:
        """A text to print and lock away: it opens the bank by itself, even if ``BANK`` and ``keys/`` are lost.

        Take it back with ``Bank.recover``, or with ``Bank.open(place, recovery=text)``.
        """
        return keychange.recovery_text(self._readable())


def _info(slot: KeySlot) -> KeySlotInfo:
    source = slot.parameters.source.name.lower().replace("_", "-")
    return KeySlotInfo(slot.id.hex(), source, slot.label, slot.created_ns)
