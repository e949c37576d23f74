"""What an index holds, as a hash of each table; run as a process of its own.

A damaged map can end in SIGBUS or SIGSEGV, which no handler turns into an exception: better here than in the program
that asks. Run as ``python digest.py FOLDER [TABLE ...]``; prints a line of JSON: for each table the number of its rows
and their hash, and the row that says where the index stands. Imports nothing of casbank, so that it starts fast.
"""

import json
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

import lmdb
from blake3 import blake3

_LENGTHS = struct.Struct("<II")


def table_digest(rows: Iterable[tuple[bytes, bytes]]) -> tuple[int, str]:
    """How many rows there are, and a hash over all of them in order."""
    hasher, count = blake3(), 0
    for key, value in rows:
        hasher.update(_LENGTHS.pack(len(key), len(value)) + key + value)
        count += 1
    return count, hasher.hexdigest()


def main(folder: Path, wanted: list[str]) -> int:
    """Exit status 0 if everything could be read."""
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, max_dbs=16, create=False) as environment:
            with environment.begin() as names:
                tables = [bytes(name) for name in names.cursor().iternext(values=False)]
            found = {}
            for table in (table for table in tables if not wanted or table.decode() in wanted):
                database = environment.open_db(table, create=False)
                with environment.begin(db=database) as transaction:
                    found[table.decode()] = table_digest(transaction.cursor().iternext())
                    if table == b"meta":
                        found["state"] = (0, (transaction.get(b"state") or b"").hex())
    except (lmdb.Error, OSError, ValueError):
        return 1
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
