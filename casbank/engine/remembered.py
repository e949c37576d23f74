"""The newest record that this client has seen, kept outside the bank and outside the index.

A store that went back in time cannot show that record any more; one that was forked shows another in its place. A
client without memory cannot know.

    magic 8 | sequence number u64 | record hash 32 | first 16 bytes of the BLAKE3 of these

Rule 1: it moves forward. Of two processes that write at once the older may win; the next record mends that.
Rule 2: it is written after the record was durable, so it never claims one that a crash took; a memory that a power cut
took back is older, and still true.
"""

import logging
import os
import struct
import threading
from pathlib import Path

from blake3 import blake3

from casbank.format.record import record_hash
from casbank.journal.base import Head, Journal, Superseded
from casbank.storage.files import close_file, translate

_log = logging.getLogger(__name__)
_FIELDS = struct.Struct("<8sQ32s")
_MAGIC = b"CASHEAD1"
_CHECK_BYTES = 16
_BYTES = _FIELDS.size + _CHECK_BYTES


def remembered_head(path: Path) -> Head | None:
    """What the memory file of a bank says; None if there is none, or if it cannot be read."""
    try:
        return _decoded(path.read_bytes())
    except OSError:
        return None


def _decoded(data: bytes) -> Head | None:
    fields, check = data[: _FIELDS.size], data[_FIELDS.size :]
    if len(data) != _BYTES or blake3(fields).digest(_CHECK_BYTES) != check:
        return None
    _, seq, head_hash = _FIELDS.unpack(fields)
    return Head(seq, head_hash)


class RememberedHead:
    """The memory file of one bank, for every process of this user."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError if the file can be neither opened nor made."""
        self._path = path
        self._mutex = threading.Lock()
        self._written = 0
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise translate(error, "cannot remember what was seen of this bank", path=path) from error

    def read(self) -> Head | None:
        """What was seen; None if nothing was, or if it is damaged.

        Raises StoreError where the disk does not tell: that may pass, and what was seen must not be forgotten for it.
        """
        try:
            return _decoded(os.pread(self._descriptor, _BYTES, 0))
        except OSError as error:
            raise translate(error, "cannot read what was seen of this bank", path=self._path) from error

    def advance(self, head: Head) -> None:
        """Remember a durable record, unless a newer one is remembered.

        A failure is logged and no more, because the record is durable all the same; the next one tries again.
        """
        with self._mutex:
            if head.seq <= self._written:
                return
            try:
                known = self.read()
                if known is None or known.seq < head.seq:
                    self._write(head)
            except OSError as error:
                _log.warning("record %d cannot be remembered as seen: %s", head.seq, error)
            else:
                self._written = head.seq

    def _write(self, head: Head) -> None:
        fields = _FIELDS.pack(_MAGIC, head.seq, head.hash)
        if os.pwrite(self._descriptor, fields + blake3(fields).digest(_CHECK_BYTES), 0) != _BYTES:
            raise OSError("it was written in part")

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
        descriptor, self._descriptor = self._descriptor, -1
        close_file(descriptor)
