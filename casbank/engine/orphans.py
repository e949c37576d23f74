"""Packs in the store that are neither live nor waiting to be deleted: left by crashes and by lost deletes.

Rule: they are swept by a record like any other pack, once they are older than a day and than every living lease: a
writer that stalled for so long finds out before it publishes one (rule W). Many of them mean a wrong journal.
"""

from typing import NamedTuple

from casbank import limits
from casbank.engine.bankstate import BankState
from casbank.engine.engine import Engine
from casbank.errors import CorruptionError, ErrorKind
from casbank.format.header import parse_id

_NS = 10**9
# Below this number, a share says nothing.
_FEW = 10


class Orphan(NamedTuple):
    """One of them: its id, and the bytes that it takes."""

    id: bytes
    bytes: int


def find_orphans(engine: Engine, bank: BankState, *, force: bool) -> list[Orphan]:
    """Packs that can be swept as orphans. CorruptionError if there are suspiciously many, unless it is ``force``d."""
    oldest_ns = engine.world.now_ns() - limits.ORPHAN_AGE_S * _NS
    # The store's clock may be behind the lease's.
    margin_ns = limits.LEASE_MARGIN_S * _NS
    oldest_ns = min([oldest_ns, *(lease.acquired_ns - margin_ns for lease in bank.leases.values())])
    found: list[Orphan] = []
    packs = 0
    for blob in engine.resources.store.list("packs/"):
        packs += 1
        pack_id = parse_id(blob.name.rpartition("/")[2])
        if pack_id is None:
            continue
        if blob.modified_ns < oldest_ns and pack_id not in bank.packs and pack_id not in bank.swept:
            found.append(Orphan(pack_id, blob.size))
    if len(found) > max(_FEW, packs * limits.ORPHAN_SHARE_MAX) and not force:
        raise CorruptionError(
            f"{len(found)} of {packs} packs belong to nothing that the journal knows: is it the right one? If so, "
            "collect with --force",
            kind=ErrorKind.JOURNAL,
        )
    return found
