"""Compare the bank's index with one that was made for the check.

Rule 1: an index that others use is left alone, and one that a crash left behind is no damage: the next one to open the
bank catches up, or makes it anew.
Rule 2: it is looked at in a child process, which a damaged map may kill.
"""

import json
import struct
import subprocess
import sys
from enum import Enum
from pathlib import Path

from casbank.engine.fsck.replay import Replayed
from casbank.errors import CorruptionError
from casbank.index import digest
from casbank.index.marker import Marker
from casbank.index.tables import decode_state, encode_state
from casbank.index.transaction import TABLES
from casbank.index.view import is_in_use
from casbank.journal.base import Head

# A hundred million rows take some minutes.
_SECONDS_MAX = 3600
_STATE = b"state"
# What packs that cannot be read keep out of a new index.
_OF_PACKS = frozenset({"chunk", "pack"})


class IndexFound(Enum):
    """What became of the comparison."""

    SAME = "same"
    ABSENT = "there is none: the next one to open the bank makes it"
    IN_USE = "another process has it open: 'casbank index verify' compares it"
    LOCKED = "whether somebody uses it cannot be seen, for want of permission"
    OUTDATED = "it is not believed, or behind the journal: the next one to open the bank sees to it"
    DAMAGED = "it cannot be read"
    FOREIGN = "it stands on a record that is not this journal's, so that the bank does not open"
    DIFFERS = "it differs"


def check_index(folder: Path, replayed: Replayed) -> tuple[IndexFound, list[str]]:
    """What is found of the index in ``folder``, and the tables that differ."""
    reason = _why_not(folder)
    if reason is not None:
        return reason, []
    found = _digests(folder)
    if found is None:
        return IndexFound.DAMAGED, []
    expected = encode_state(_STATE, replayed.state()).hex()
    if found.get("state", [0, ""])[1] != expected:
        return IndexFound.FOREIGN if _is_foreign(folder, replayed) else IndexFound.OUTDATED, []
    wrong = [table for table in TABLES if not _is_same(table, found, replayed)]
    return (IndexFound.DIFFERS if wrong else IndexFound.SAME), wrong


def seen_by_index(folder: Path) -> Head | None:
    """Up to which record an index was made, by its own word; None if it cannot be read."""
    found = _digests(folder, "meta") if (folder / "data.mdb").is_file() else None
    value = "" if found is None else str(found.get("state", [0, ""])[1])
    try:
        state = decode_state(_STATE, bytes.fromhex(value))
    except (CorruptionError, ValueError, struct.error):
        return None
    return Head(state.seq, state.hash)


def _is_foreign(folder: Path, replayed: Replayed) -> bool:
    """Whether an index stands where the journal has another record: a salvage that was killed leaves one."""
    seen = seen_by_index(folder)
    known = (replayed.base, replayed.state())
    return seen is not None and any(seen.seq == state.seq and seen.hash != state.hash for state in known)


def _why_not(folder: Path) -> IndexFound | None:
    """Why an index is not compared, if it is not."""
    if not (folder / "data.mdb").is_file():
        return IndexFound.ABSENT
    # Without a marker nobody believes it, and looking for one would make one.
    if not (folder / "marker").is_file():
        return IndexFound.OUTDATED
    try:
        if is_in_use(folder):
            return IndexFound.IN_USE
        return None if _survived(folder) else IndexFound.OUTDATED
    except OSError:
        return IndexFound.LOCKED


def _survived(folder: Path) -> bool:
    marker = Marker(folder)
    try:
        return marker.survived()
    finally:
        marker.close()


def _is_same(table: str, found: dict[str, list[object]], replayed: Replayed) -> bool:
    if replayed.unlisted and table in _OF_PACKS:
        return True
    with replayed.view.read() as snapshot:
        return list(digest.table_digest(snapshot.rows(table))) == found.get(table)


def _digests(folder: Path, *tables: str) -> dict[str, list[object]] | None:
    if not sys.executable:
        return None
    # -P: this folder must not become the child's module path.
    command = [sys.executable, "-P", digest.__file__, str(folder), *tables]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS_MAX, check=False)
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return found if isinstance(found, dict) else None
