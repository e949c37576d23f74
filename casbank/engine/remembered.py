"""The newest record that this client has seen, kept outside the bank and outside the index.

A store that went back in time cannot show that record any more; one that was forked shows another in its place. A
client without memory cannot know.

    magic 8 | sequence number u64 | record hash 32 | first 16 bytes of the BLAKE3 of these

Rule 1: it moves forward. Of two processes that write at once the older may win; the next record mends that.
Rule 2: it is written after the record was durable, so it never claims one that a crash took; a memory that a power cut
took back is older, and still true.
"""

import os
import struct
import threading
from pathlib import Path

from blake3 import blake3

from casbank.format.record import record_hash
from casbank.journal.base import Head, Journal, Superseded
from casbank.storage.files import translate

_FIELDS = struct.Struct("<8sQ32s")
_MAGIC = b"CASHEAD1"
_CHECK_BYTES = 16
_BYTES = _FIELDS.size + _CHECK_BYTES


class RememberedHead:
    """The memory file of one bank, for every process of this user."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError if the file can be neither opened nor made."""
        self._mutex = threading.Lock()
        self._written = 0
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise translate(error, "cannot remember what was seen of this bank", path=path) from error

    def read(self) -> Head | None:
        """What was seen; None if nothing was, or if it cannot be read any more."""
        data = os.pread(self._descriptor, _BYTES, 0)
        fields, check = data[: _FIELDS.size], data[_FIELDS.size :]
        if len(data) != _BYTES or blake3(fields).digest(_CHECK_BYTES) != check:
            return None
        _, seq, head_hash = _FIELDS.unpack(fields)
        return Head(seq, head_hash)

    def advance(self, head: Head) -> None:
        """Remember a durable record, unless a newer one is remembered."""
        fields = _FIELDS.pack(_MAGIC, head.seq, head.hash)
        with self._mutex:
            if head.seq <= self._written:
                return
            known = self.read()
            if known is None or known.seq < head.seq:
                os.pwrite(self._descriptor, fields + blake3(fields).digest(_CHECK_BYTES), 0)
            self._written = head.seq

    def agrees(self, journal: Journal) -> bool:
        """Whether the journal still shows what was seen, as far as it reaches back.

        Raises CorruptionError, StoreError.
        """
        known = self.read()
        head = journal.head()
        if known is None or known == head:
            return True
        if known.seq > head.seq:
            return False
        try:
            entry = next(journal.read(known.seq - 1))
        except Superseded:
            # A checkpoint has taken its place: this client was away for long.
            return True
        return record_hash(entry.record) == known.hash

    def close(self) -> None:
        os.close(self._descriptor)
