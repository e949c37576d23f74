"""An embeddable, content-addressed, deduplicating object bank.

>>> from casbank import Bank
>>> with Bank.create("memory://doctest") as bank:
...     info = bank.put("a/b", b"some bytes")
...     bank.get("a/b")
b'some bytes'
"""

from casbank.bank import Bank
from casbank.engine.batch import Batch
from casbank.engine.objectfile import ObjectFile
from casbank.errors import (
    AlreadyExistsError,
    CasbankError,
    ConflictError,
    CorruptionError,
    ErrorKind,
    InvalidInputError,
    KeyMismatchError,
    LeaseError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
    UnsupportedFormatError,
)
from casbank.findings import Finding, FindingKind, FsckProgress, FsckReport
from casbank.keys import Keys
from casbank.lease import Lease
from casbank.model import (
    BankStats,
    BlockedSpace,
    CollectPlan,
    CollectProgress,
    CollectReport,
    Hole,
    KeyEpoch,
    KeySlotInfo,
    LastCollection,
    LeaseInfo,
    LeaseStatus,
    ObjectInfo,
)
from casbank.world import World

__all__ = [
    "AlreadyExistsError",
    "Bank",
    "BankStats",
    "Batch",
    "BlockedSpace",
    "CasbankError",
    "CollectPlan",
    "CollectProgress",
    "CollectReport",
    "ConflictError",
    "CorruptionError",
    "ErrorKind",
    "Finding",
    "FindingKind",
    "FsckProgress",
    "FsckReport",
    "Hole",
    "InvalidInputError",
    "KeyEpoch",
    "KeyMismatchError",
    "KeySlotInfo",
    "Keys",
    "LastCollection",
    "Lease",
    "LeaseError",
    "LeaseInfo",
    "LeaseStatus",
    "NotFoundError",
    "ObjectFile",
    "ObjectInfo",
    "ReadOnlyError",
    "StoreError",
    "UnsupportedFormatError",
    "World",
]
