"""A journal in memory: for tests, and for banks that need not outlive their process.

"Stable storage" is the process itself here; in everything else it keeps the promises of ``Journal``.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from casbank.format.record import record_hash
from casbank.journal.base import (
    EMPTY_HEAD,
    Head,
    JournalDamage,
    JournalEntry,
    SeqTaken,
    Superseded,
    check_record,
    check_seq,
)


class MemoryJournal:
    """A ``Journal`` in a list; what two banks are to share must be one instance."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._records: list[bytes] = []
        self._forgotten = 0

    def head(self) -> Head:
        with self._lock:
            return self._head()

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._turn:
            yield

    def append(self, seq: int, record: bytes) -> None:
        check_record(record)
        with self._lock:
            if seq != self._head().seq + 1:
                raise SeqTaken(seq)
            self._records.append(record)

    def read(self, after: int) -> Iterator[JournalEntry]:
        with self._lock:
            if after < self._forgotten:
                raise Superseded(after + 1)
            records = self._records[after - self._forgotten :]
        return (JournalEntry(seq, record) for seq, record in enumerate(records, after + 1))

    def first(self) -> int:
        with self._lock:
            return self._forgotten + 1

    def bytes_held(self) -> int:
        with self._lock:
            return sum(map(len, self._records))

    def forget(self, up_to: int) -> None:
        with self._lock:
            # The newest record stays: its hash is the head.
            gone = max(0, min(up_to - self._forgotten, len(self._records) - 1))
            del self._records[:gone]
            self._forgotten += gone

    def inspect(self) -> Iterator[JournalEntry | JournalDamage]:
        with self._lock:
            records, first = self._records[:], self._forgotten + 1
        return (JournalEntry(seq, record) for seq, record in enumerate(records, first))

    def restart(self, seq: int, record: bytes) -> None:
        check_seq(seq)
        check_record(record)
        # Nothing outlives this process, so there is no place to set the old records aside in.
        with self._lock:
            self._records = [record]
            self._forgotten = seq - 1

    def exclusive(self) -> AbstractContextManager[None]:
        return self.turn()

    def close(self) -> None:
        # The records stay: whoever holds this instance may hand it to another bank.
        pass

    def _head(self) -> Head:
        if not self._records:
            return EMPTY_HEAD
        return Head(self._forgotten + len(self._records), record_hash(self._records[-1]))
