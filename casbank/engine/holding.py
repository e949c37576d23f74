"""What one writer relies on, and how it holds that against collectors (docs/collector.md, rules W and P).

A short put holds nothing: if a pack that it relies on is swept before it commits, it reads its source again. A long
one, and one whose source cannot be read twice, has a lease, and pins each pack before it lets go of the bytes that it
did not store because of that pack.
"""

from collections.abc import Collection

from casbank import limits
from casbank.engine.leases import HeldLease
from casbank.engine.resources import Resources
from casbank.engine.rules import Reliance, Stale
from casbank.errors import CasbankError, LeaseError
from casbank.format.record import Op, Release
from casbank.index.transaction import Snapshot


class Holding:
    """The packs that one writer relies on; for one thread."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._relied: set[int] = set()
        self._pinned: set[int] = set()
        self._since = resources.follower.seen.seq
        self._began_ns = resources.world.now_ns()
        self._lease: HeldLease | None = None

    @property
    def lease_id(self) -> bytes | None:
        return None if self._lease is None else self._lease.id

    @property
    def reliance(self) -> Reliance:
        """What is to be live when the writer commits."""
        return Reliance(self._relied, self._since)

    def secure(self, *, is_first: bool = False) -> None:
        """Hold a lease from here on, and everything relied on so far. Stale if some of it is gone.

        ``is_first``: no pack was begun yet, so what was swept before the lease is none of ours.
        """
        if self._lease is not None:
            return
        lease = HeldLease(
            self._resources.commit, self._resources.world, "casbank", ttl_s=limits.LEASE_TTL_S_DEFAULT, kind="write"
        )
        # What was stored before is protected too.
        lease.acquired_ns = self._began_ns
        lease.acquire()
        self._lease = lease
        self._resources.leases.keep(lease)
        if is_first:
            self._since = lease.seq
        if self.rely(self._relied):
            raise Stale

    def rely(self, packs: Collection[int]) -> set[int]:
        """Rely on packs; those of them that turned out to be gone. Without a lease that is learnt at the commit."""
        gone: set[int] = set()
        if self._lease is not None:
            fresh = [number for number in packs if number not in self._pinned]
            for start in range(0, len(fresh), limits.LEASE_PINS_MAX):
                gone |= self._pin(self._lease, fresh[start : start + limits.LEASE_PINS_MAX])
        self._relied.update(number for number in packs if number not in gone)
        return gone

    def own(self, pack_ids: Collection[bytes]) -> None:
        """Rely on packs of our own, which the record that published them has pinned."""
        with self._resources.follower.read() as snapshot:
            numbers = {snapshot.pack_number(pack_id) for pack_id in pack_ids}
        if None in numbers:
            # Already gone again: the lease was lost, and a collector was quick.
            raise Stale
        self._relied |= {number for number in numbers if number is not None}
        self._pinned |= {number for number in numbers if number is not None}

    def closing_ops(self, now: Snapshot) -> list[Op]:
        """What ends the lease in the record that makes everything visible."""
        if self._lease is None or now.lease(self._lease.id) is None:
            return []
        return [Release(self._lease.id, "released")]

    def end(self, *, released: bool) -> None:
        """Renew the lease no longer; release it unless the journal has it so already."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        self._resources.leases.let_go(lease)
        if not released:
            try:
                lease.release()
            except CasbankError:
                # It expires by itself.
                return

    def _pin(self, lease: HeldLease, numbers: list[int]) -> set[int]:
        gone: set[int] = set()

        def decide(now: Snapshot) -> list[Op]:
            rows = {number: now.pack(number) for number in numbers}
            gone.clear()
            gone.update(number for number, row in rows.items() if row is None)
            ids = [row.info.id for row in rows.values() if row is not None]
            return [lease.renewal(now, ids)] if ids else []

        try:
            self._resources.commit(decide)
        except LeaseError:
            # Fenced. What it held may be there all the same: go on under a new lease, or begin anew.
            self._resources.leases.let_go(lease)
            self._lease, self._pinned = None, set()
            self.secure()
            return self.rely(numbers)
        self._pinned.update(number for number in numbers if number not in gone)
        return gone
