"""Look into an index that was not closed in order; run as a process of its own.

A damaged map can end in SIGBUS or SIGSEGV, which no handler turns into an exception: better here than in the program
that embeds casbank. Exit status 0: as far as could be seen in bounded time, it is sound.
Run as ``python probe.py FOLDER``; imports nothing of casbank, so that it starts fast.
"""

import sys
from pathlib import Path

import lmdb

_SAMPLES = 256
_ROWS = 64


def main(folder: Path) -> int:
    """Exit status for the index in ``folder``."""
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, max_dbs=16, create=False) as env:
            end = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
            if end > (folder / "data.mdb").stat().st_size:
                return 1
            with env.begin() as names:
                tables = [bytes(name) for name in names.cursor().iternext(values=False)]
            for table in tables:
                _walk(env, table)
    except (lmdb.Error, OSError):
        return 1
    return 0


def _walk(env: lmdb.Environment, table: bytes) -> None:
    """Read rows all over a table: each sample comes down another branch of the tree."""
    database = env.open_db(table, create=False)
    with env.begin(db=database) as transaction:
        cursor = transaction.cursor()
        for sample in range(_SAMPLES):
            cursor.set_range(bytes([sample]))
            for _, _item in zip(range(_ROWS), cursor.iternext(), strict=False):
                pass


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
