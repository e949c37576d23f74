"""The error tree, grouped by what the caller would do about it.

No other exception leaves the library for bad input, bad bytes or a bad network. ``kind`` is stable and names the case
within a class; ``context`` carries the pack, chunk, object or path in question, for messages and for programs.
"""

from enum import StrEnum
from typing import ClassVar


class ErrorKind(StrEnum):
    """What exactly went wrong; stable across releases."""

    GENERAL = "general"
    # NotFoundError
    NO_BANK = "no-bank"
    NO_OBJECT = "no-object"
    NO_KEY = "no-key"
    GONE = "gone"
    # CorruptionError
    HEADER = "header"
    PACK = "pack"
    PACK_MISSING = "pack-missing"
    ENTRY_TAG = "entry-tag"
    CHUNK_ID = "chunk-id"
    MANIFEST = "manifest"
    DIGEST = "digest"
    RECORD = "record"
    JOURNAL = "journal"
    CHECKPOINT = "checkpoint"
    BANK_DESCRIPTOR = "bank-descriptor"
    INDEX_VALUE = "index-value"
    KEY_SLOT = "key-slot"
    KEYRING = "keyring"
    # LeaseError
    LEASE_LOST = "lease-lost"
    LEASE_UNKNOWN = "lease-unknown"
    # KeyMismatchError
    KEY_WRONG = "key-wrong"
    KEY_MISSING = "key-missing"
    NOT_ENCRYPTED = "not-encrypted"
    # StoreError
    DISK_FULL = "disk-full"
    OUTCOME_UNKNOWN = "outcome-unknown"
    NETWORK_FILE_SYSTEM = "network-file-system"
    # ReadOnlyError
    OPENED_READ_ONLY = "opened-read-only"
    FSYNC_FAILED = "fsync-failed"
    ROLLED_BACK = "rolled-back"
    # AlreadyExistsError, ConflictError
    BANK_EXISTS = "bank-exists"
    OBJECT_EXISTS = "object-exists"
    VERSION = "version"
    SOURCE_CHANGED = "source-changed"
    # InvalidInputError
    NAME = "name"
    TOO_LARGE = "too-large"
    CLOSED = "closed"
    FORKED = "forked"


LOST_KINDS = frozenset(
    {ErrorKind.CHUNK_ID, ErrorKind.PACK_MISSING, ErrorKind.PACK, ErrorKind.ENTRY_TAG, ErrorKind.MANIFEST}
)
"""What says of a chunk or a manifest node that it cannot be had. Not among them is damage that can be mended without
it: an index is made anew, a keyring is put back."""


class CasbankError(Exception):
    """Base of every error of casbank.

    ``kind`` is an :class:`ErrorKind`; ``context`` a dict of the things that the message is about; ``exit_code`` what
    the command line ends with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, kind: ErrorKind = ErrorKind.GENERAL, **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.context = context

    def __str__(self) -> str:
        # KeyError would print the repr of its argument, OSError its errno.
        details = ", ".join(f"{key} {_shown(value)}" for key, value in self.context.items())
        return f"{self.message} ({details})" if details else self.message


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


class NotFoundError(CasbankError, KeyError):
    """The thing asked for is not there: ask for something else."""

    exit_code = 3


class CorruptionError(CasbankError):
    """Stored bytes fail their check: run ``casbank fsck``. Never retried."""

    exit_code = 4


class LeaseError(CasbankError):
    """A lease is expired, fenced or unknown: acquire a new one."""

    exit_code = 5


class StoreError(CasbankError, OSError):
    """The store, its disk or its network failed: mend that and try again.

    With ``kind`` OUTCOME_UNKNOWN the change was made wholly or not at all, and which of the two could not be learnt:
    look before trying again.
    """

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # one class, two codes: api.md
        return 12 if self.kind is ErrorKind.OUTCOME_UNKNOWN else 6


class KeyMismatchError(CasbankError):
    """No key slot opens with the key that was given; or none was given, or one for a bank that is not encrypted."""

    exit_code = 7


class UnsupportedFormatError(CasbankError):
    """The bytes are of a newer format or need an unknown feature: upgrade casbank."""

    exit_code = 8


class ReadOnlyError(CasbankError):
    """The bank cannot be written: it was opened read-only, an fsync failed (reopen it), or it went back in time."""

    exit_code = 9


class AlreadyExistsError(CasbankError):
    """The name is taken, and the caller asked that it be new."""

    exit_code = 10


class ConflictError(CasbankError):
    """Something changed meanwhile: read again and decide anew."""

    exit_code = 10


class InvalidInputError(CasbankError, ValueError):
    """The call itself is wrong: a bad name, option or argument."""

    exit_code = 2
