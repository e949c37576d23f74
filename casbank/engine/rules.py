"""What a record must keep to, so that nothing that a name reaches is ever freed (docs/collector.md).

These are asked where a record is appended, on the state that it follows, and nowhere else; no record is appended
without them.

W (writer): every pack that a PUT relies on is live, or published by the same record. PACKS never names a pack that was
swept; who cannot know any more, because orphans were deleted since, takes what he has not published as gone.
P (pins): only a live pack can be pinned.
G (collector): packs are swept only on the word of the collection that marked them (``Sweeping``).
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from casbank.format.record import Lease, Op, Packs, Put, Sweep
from casbank.index.apply import ORPHANS_KEY
from casbank.index.transaction import Snapshot


class Stale(Exception):  # noqa: N818 - an answer, not a failure; it never leaves the library
    """Packs that a request relies on are not live any more: store their chunks again, and try again."""


class Reliance(NamedTuple):
    """What the PUTs and PACKS of a request rely on: packs by their numbers; and that what they publish was begun behind
    record ``since``."""

    packs: Collection[int]
    since: int


class Sweeping(Protocol):
    """A collection that wants to sweep."""

    def allows(self, now: Snapshot, pack_ids: Sequence[bytes]) -> bool:
        """Whether nothing reaches these packs, and no living lease holds one, in this state (rule G)."""


Backing: TypeAlias = Reliance | Sweeping | None


def check(now: Snapshot, ops: Sequence[Op], backing: Backing) -> None:
    """Raise Stale unless the operations keep rules W and P in this state; ValueError for a request that has no word
    for what it does, which is a bug."""
    swept = [pack_id for op in ops if isinstance(op, Sweep) for pack_id in op.pack_ids]
    if swept and (backing is None or isinstance(backing, Reliance) or not backing.allows(now, swept)):
        raise ValueError("a sweep without a collection that allows it")
    if isinstance(backing, Reliance):
        _check_writer(now, ops, backing)
    elif any(isinstance(op, Put) for op in ops):
        raise ValueError("a PUT that says nothing of what it relies on")
    for op in ops:
        if isinstance(op, Lease) and any(isinstance(pin, bytes) and now.pack_number(pin) is None for pin in op.pins):
            raise Stale


def _check_writer(now: Snapshot, ops: Sequence[Op], reliance: Reliance) -> None:
    # Whatever was swept or not since: a row that should have gone must not be relied on either.
    if not all(map(now.has_pack, reliance.packs)):
        raise Stale
    published = [info.id for op in ops if isinstance(op, Packs) for info in op.packs]
    # Some that were swept may be forgotten; not while the lease lives under which they were begun.
    if published and _number(now, ORPHANS_KEY) > reliance.since:
        raise Stale
    if any(now.swept_pack(pack_id) is not None for pack_id in published):
        raise Stale


def _number(now: Snapshot, key: str) -> int:
    value = now.config(key)
    return value if isinstance(value, int) else 0
