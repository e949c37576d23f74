"""Compare the index with what the store says.

Rule: only two indexes that stand on one record can be compared; if somebody wrote meanwhile, both catch up.
"""

from collections.abc import Iterator
from typing import TypeAlias

from casbank.engine.checkpoint import CheckpointFiles
from casbank.engine.engine import Engine
from casbank.engine.follow import Follower, IndexPlace
from casbank.engine.scratch import temporary_folder
from casbank.index.transaction import TABLES, Snapshot

_Row: TypeAlias = tuple[bytes, bytes]


def verify_index(engine: Engine) -> list[str]:
    """What differs between the index and one that is made of the store, in a temporary folder: a line a table."""
    with temporary_folder() as scratch:
        resources = engine.resources
        fresh = Follower(
            journal=engine.journal,
            sealing=resources.sealing,
            packs=resources.packs,
            checkpoints=CheckpointFiles(resources.store, resources.sealing, scratch),
            index=IndexPlace(scratch / "index"),
            world=engine.world,
        )
        try:
            return _compare(engine.follower, fresh)
        finally:
            fresh.close()


def _compare(present: Follower, fresh: Follower) -> list[str]:
    while True:
        fresh.catch_up()
        present.catch_up()
        with present.read() as found, fresh.read() as expected:
            if found.state() == expected.state():
                return [line for table in TABLES if (line := _compare_table(table, found, expected))]


def _compare_table(table: str, found: Snapshot, expected: Snapshot) -> str:
    """Which rows differ; empty if none does."""
    missing = surplus = 0
    for is_expected in _unpaired(found.rows(table), expected.rows(table)):
        missing += is_expected
        surplus += not is_expected
    if not (missing or surplus):
        return ""
    return f"index table {table}: {missing} rows are missing or wrong, {surplus} should not be there"


def _unpaired(found: Iterator[_Row], expected: Iterator[_Row]) -> Iterator[bool]:
    """For each row that is on one side only, whether it was expected. Both sides are in order."""
    ours, theirs = next(found, None), next(expected, None)
    while ours is not None or theirs is not None:
        if ours == theirs:
            ours, theirs = next(found, None), next(expected, None)
        elif theirs is None or (ours is not None and ours < theirs):
            yield False
            ours = next(found, None)
        else:
            yield True
            theirs = next(expected, None)
