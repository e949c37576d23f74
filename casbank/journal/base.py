"""What the engine demands of a journal: records under consecutive numbers, each number won once.

Rule 1: a record is durable under exactly its number before ``append`` returns; from then on every reader finds it.
Rule 2: no number is ever given twice, whatever crashed between two attempts at it.
Rule 3: a reader sees durable records only, in order, without a gap, and each one matches its hash.
A record is opaque here, but for its end: the last 32 bytes are the BLAKE3-256 of all before them, its *record hash*.
Numbers begin with 1. The obligations below are tested by ``tests/journal/test_contract.py``.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from blake3 import blake3

from casbank import limits
from casbank.errors import ErrorKind, InvalidInputError
from casbank.format.record import record_hash

RECORD_HASH_BYTES = 32
# What a frame and the mark have room for.
SEQ_MAX = 2**64 - 1


class Head(NamedTuple):
    """The newest durable record: its number and its record hash. ``EMPTY_HEAD`` if there is none."""

    seq: int
    hash: bytes


EMPTY_HEAD = Head(0, bytes(RECORD_HASH_BYTES))


class JournalEntry(NamedTuple):
    """One record, with the hash that ends it, and its number."""

    seq: int
    record: bytes


class JournalDamage(NamedTuple):
    """Records that cannot be read, or the torn end of the journal; how ``Journal.inspect`` says so.

    ``place`` is for people: a file below the journal's folder, and bytes of it. ``first_seq`` is the first record that
    is missing there, ``last_seq`` the last one, None if nobody can tell. It is ``first_seq - 1`` if none is missing:
    then something is wrong there that ``read`` may stumble over (a damaged head around a whole record, a segment of
    a wrong name), and the records follow as entries. With ``is_tail`` it is no damage: bytes of a record that nobody
    was told of, behind all that was acknowledged; the next writer sets them aside.
    """

    place: str
    first_seq: int
    last_seq: int | None
    reason: str
    is_tail: bool


class SeqTaken(Exception):  # noqa: N818 - an answer, not a failure; it never leaves the library
    """Another writer won that number: replay and try again with the next one. Nothing was written."""


class Superseded(Exception):  # noqa: N818 - the same
    """The journal no longer holds the record that was asked for: begin with a checkpoint."""


class Journal(Protocol):
    """An append-only list of records. MUST be usable from several threads at once, and by several processes.

    Whatever the disk or the network does MUST leave as StoreError, stored bytes that fail a check as CorruptionError.
    """

    def head(self) -> Head:
        """The newest durable record. Called before every read of the bank, so it MUST be cheap when nothing changed.

        MUST NOT go back, and MUST NOT show a record that could still be lost. Raises CorruptionError (kind JOURNAL).
        """

    def turn(self) -> AbstractContextManager[None]:
        """What is held around "replay to the head, decide, append".

        A journal whose ``append`` could otherwise tear or lose a record MUST exclude all other writers here, threads
        and processes, and mend what a dead one left. A journal that settles rivals in ``append`` does nothing. MUST
        NOT be entered twice by one thread. Raises ReadOnlyError if it was opened read-only.
        """

    def append(self, seq: int, record: bytes) -> None:
        """Make the record durable under number ``seq``, inside ``turn``.

        MUST be on stable storage when it returns. MUST raise SeqTaken, and write nothing, unless ``seq`` follows the
        head; of any number of rivals for a number MUST let exactly one win. MUST leave no trace that could still
        become a record when it raises StoreError of another kind (DISK_FULL for want of space). Raises StoreError
        (kind OUTCOME_UNKNOWN) if the record may or may not be there; ReadOnlyError (kind FSYNC_FAILED) once an fsync
        has failed, (kind OPENED_READ_ONLY) if opened so; InvalidInputError for a record that fails ``check_record``.
        """

    def read(self, after: int) -> Iterator[JournalEntry]:
        """The durable records with a number above ``after``, in order, up to the head at the time of the call.

        MUST check each record's hash and that no number is missing. MUST be cheap where the last reading left off.
        Raises Superseded, from the call or any step, if record ``after + 1`` or one behind it was forgotten;
        CorruptionError (kind JOURNAL).
        """

    def first(self) -> int:
        """The lowest number still held; that of the next record if none is."""

    def bytes_held(self) -> int:
        """The bytes of the records held, with what frames them: for people, not for decisions."""

    def forget(self, up_to: int) -> None:
        """Let go of records up to ``up_to``: a checkpoint at or behind that number is durable and official.

        MAY keep any of them. MUST keep the newest record and all above ``up_to``, and MUST NOT let a forgotten
        number be won again. A crash MUST leave a list without a gap.
        """

    def inspect(self) -> Iterator[JournalEntry | JournalDamage]:
        """Every record that can still be read, in ascending order, and in between what cannot.

        MUST NOT raise CorruptionError, whatever is stored; MUST NOT show a number twice. MUST go on behind damage, and
        MUST report what is known to have been acknowledged and is not there; records before the first one held may
        have been forgotten. MUST change nothing and take no lock; beside a writer it MUST NOT take for damage what is
        being written.
        """

    def restart(self, seq: int, record: bytes) -> None:
        """For salvage only: the journal is this one record from here on, under this number, and what follows it.

        What was there MUST be set aside, not deleted, where it outlives the process. A crash MUST leave each record
        that ``inspect`` found in the journal or among what was set aside, and a journal that can be restarted (again).
        MUST NOT be called in a turn; MAY be inside ``exclusive``. Raises what ``append`` raises, but never SeqTaken.
        """

    def exclusive(self) -> AbstractContextManager[None]:
        """What is held around "inspect, decide, restart": as ``turn``, but nothing is mended.

        MUST exclude whatever could append meanwhile. MUST NOT be entered twice by one thread. Raises ReadOnlyError if
        it was opened read-only.
        """

    def close(self) -> None:
        """Let go of descriptors and locks. MUST be idempotent; no other call may be under way or follow."""


def is_whole(record: bytes) -> bool:
    """Whether these bytes end in the BLAKE3-256 of all before."""
    # A view: the record may be 64 MiB, and a slice would copy it.
    before = memoryview(record)[:-RECORD_HASH_BYTES]
    return len(record) >= RECORD_HASH_BYTES and blake3(before).digest() == record_hash(record)


def check_record(record: bytes) -> None:
    """Raise InvalidInputError unless ``record`` is at most RECORD_BYTES_MAX long and ends in its hash."""
    if len(record) > limits.RECORD_BYTES_MAX:
        raise InvalidInputError("a record is too large", kind=ErrorKind.TOO_LARGE, bytes=len(record))
    if not is_whole(record):
        raise InvalidInputError("a record does not end in its hash", bytes=len(record))


def check_seq(seq: int) -> None:
    """Raise InvalidInputError unless a record can have this number."""
    if not 1 <= seq <= SEQ_MAX:
        raise InvalidInputError("no record can have this number", seq=seq)
