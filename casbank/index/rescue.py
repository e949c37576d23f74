"""What an index still knows of records that the journal has lost; run as a process of its own, like ``digest.py``.

Run as ``python -m casbank.index.rescue FOLDER FIRST-LAST ...``; writes msgpack to standard output: first the hash of
BANK, sequence number and record hash that the index stands on; then a row for each name that one of those records put
or removed: name, sequence number, ordinal and time (None if unknown), descriptor (None if it was removed).
Rows that fail their checks are left out.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import lmdb

from casbank.errors import CorruptionError
from casbank.format.messages import encode
from casbank.index.apply import FIRST_KEY
from casbank.index.tables import Tombstone, decode_bucket, decode_tombstone
from casbank.index.transaction import DUPLICATE_TABLES, TABLES, Snapshot

_Row: TypeAlias = list[Any]
_BROKEN = (CorruptionError, struct.error, UnicodeDecodeError)


def main(folder: Path, wanted: list[range], out: BinaryIO) -> int:
    """Exit status 0 if everything could be looked at."""
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, max_dbs=len(TABLES), create=False) as environment:
            databases = {
                name: environment.open_db(name.encode(), create=False, dupsort=name in DUPLICATE_TABLES)
                for name in TABLES
            }
            with environment.begin() as transaction:
                snapshot = Snapshot(transaction, databases)
                state = snapshot.state()
                if state is None:
                    return 1
                out.write(encode([snapshot.config(FIRST_KEY), state.seq, state.hash]))
                for row in _changes(snapshot, wanted):
                    out.write(encode(row))
    except (lmdb.Error, OSError, *_BROKEN):
        return 1
    return 0


def _changes(snapshot: Snapshot, wanted: list[range]) -> Iterator[_Row]:
    for key, value in snapshot.rows("name"):
        try:
            rows = decode_bucket(key, value)
        except _BROKEN:
            continue
        yield from ([row.name, row.version, None, None, row.descriptor] for row in rows if _in(row.version, wanted))
    for key, value in snapshot.rows("tombstone"):
        try:
            stone: Tombstone = decode_tombstone(key, value)
        except _BROKEN:
            continue
        if _in(stone.version, wanted):
            yield [stone.name, stone.version, None, None, stone.descriptor]
        if _in(stone.removed_seq, wanted):
            yield [stone.name, stone.removed_seq, stone.ordinal, stone.removed_ns, None]


def _in(number: int, wanted: list[range]) -> bool:
    return any(number in part for part in wanted)


if __name__ == "__main__":
    bounds = (word.split("-") for word in sys.argv[2:])
    parts = [range(int(first), int(last) + 1) for first, last in bounds]
    sys.exit(main(Path(sys.argv[1]), parts, sys.stdout.buffer))
