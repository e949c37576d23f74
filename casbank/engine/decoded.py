"""From a journal's bytes to a record that can be applied."""

from casbank.errors import CorruptionError, ErrorKind
from casbank.format.header import Kind, sequence_id
from casbank.format.record import decode_record, record_hash
from casbank.format.seal import Sealing
from casbank.index.apply import Applied
from casbank.journal.base import JournalEntry


def decoded(sealing: Sealing, entry: JournalEntry) -> Applied:
    """A journal entry, its tag and its place checked. Raises CorruptionError, UnsupportedFormatError."""
    seal = sealing.open(entry.record, Kind.RECORD, sequence_id(entry.seq))
    record = decode_record(entry.record, seal)
    if record.seq != entry.seq:
        raise CorruptionError("a record stands in another's place", kind=ErrorKind.JOURNAL, record=entry.seq)
    return Applied(record, record_hash(entry.record), len(entry.record), seal.header.epoch)
