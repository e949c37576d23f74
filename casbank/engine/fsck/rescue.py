"""What this client's index remembers of records that the journal has lost.

Rule 1: it is no proof, and is said to be none. It is taken only from an index that stands on this very history: on a
record that is still there, or on one of those that are lost.
Rule 2: a damaged index may kill who reads it: it is read by a child process.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from casbank import limits

_SECONDS_MAX = 600


class Change(NamedTuple):
    """What a lost record did to a name; ``descriptor`` None if it removed it. ``ordinal`` and ``time_ns`` are None
    where the index does not know them."""

    name: str
    seq: int
    ordinal: int | None
    time_ns: int | None
    descriptor: bytes | None


class Rescued(NamedTuple):
    """Whose index it is (hash of BANK), on which record it stands, and what it knows."""

    bank_hash: bytes
    seq: int
    hash: bytes
    changes: list[Change]


def rescue(folder: Path, lost: Iterable[tuple[int, int]]) -> Rescued | None:
    """What the index in ``folder`` knows of records in some ranges; None if it cannot be read."""
    ranges = [f"{first}-{last}" for first, last in lost]
    if not (sys.executable and ranges and (folder / "data.mdb").is_file()):
        return None
    command = [sys.executable, "-m", "casbank.index.rescue", str(folder), *ranges[: limits.RESCUE_RANGES_MAX]]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS_MAX, check=False)
        if done.returncode != 0:
            return None
        return _decoded(list(_unpacked(done.stdout)))
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError, msgpack.UnpackException):
        return None


def _unpacked(data: bytes) -> Iterable[Any]:
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=len(data) + 1)
    unpacker.feed(data)
    return unpacker


def _decoded(rows: list[Any]) -> Rescued:
    (bank_hash, seq, record_hash), *changes = rows
    if not (type(bank_hash) is bytes and type(seq) is int and type(record_hash) is bytes):
        raise ValueError("no index says so")
    known: dict[tuple[str, int], Change] = {}
    for name, version, ordinal, time_ns, descriptor in changes:
        key = name.decode(), version
        before = known.get(key)
        if before is None:
            known[key] = Change(*key, ordinal, time_ns, descriptor)
        else:
            # A put that replaced something: the tombstone says when, the name what.
            known[key] = before._replace(
                ordinal=before.ordinal if ordinal is None else ordinal,
                time_ns=before.time_ns if time_ns is None else time_ns,
                descriptor=before.descriptor if descriptor is None else descriptor,
            )
    return Rescued(bank_hash, seq, record_hash, sorted(known.values(), key=lambda change: change[:2]))
