"""Leases: records by which an owner says that he is alive and what he protects (docs/collector.md).

Rule (L): a lease lives from its LEASE operation until a RELEASE operation names it; no clock ends it. A clock only
allows a collector to append that RELEASE, and only if the lease was not renewed in the state that it follows. A
released id cannot be renewed.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from casbank import limits
from casbank.engine.commit import Decide
from casbank.engine.owner import decode_owner, encode_owner, is_known_dead, no_process, this_process
from casbank.errors import CasbankError, ErrorKind, InvalidInputError, LeaseError
from casbank.format.header import ID_BYTES, parse_id
from casbank.format.record import Lease, Op, Release
from casbank.index.tables import LeaseRow
from casbank.index.transaction import Snapshot
from casbank.model import LeaseInfo
from casbank.world import World

_log = logging.getLogger(__name__)
_NS = 10**9
# Renewed so often that several failures in a row do not lose it.
_RENEWALS_A_TTL = 5

Commit = Callable[[Decide], int]
"""Appends a record that needs no backing."""
OnFailure = Callable[[CasbankError], None]


class _Kept(NamedTuple):
    """How a lease is kept: whom to tell of a failure, and when the next renewal is due (monotonic seconds)."""

    on_failure: OnFailure | None
    due: float


class Leasing(Protocol):
    """What of an engine is needed for a lease."""

    world: World

    def commit(self, decide: Decide, /) -> int: ...


class HeldLease:
    """A lease of this process, or one that outlives it if it is not ``tied_to_process``; for any thread."""

    def __init__(
        self,
        commit: Commit,
        world: World,
        owner: str,
        *,
        ttl_s: float,
        kind: str,
        note: str = "",
        tied_to_process: bool = True,
    ) -> None:
        self._commit = commit
        self._world = world
        self._owner = encode_owner(this_process(owner) if tied_to_process else no_process(owner))
        self._ttl_ns = int(ttl_s * _NS)
        self._kind = kind
        self._note = note
        self.id = world.entropy(ID_BYTES)
        self.acquired_ns = world.now_ns()
        self.seq = 0
        self.expires_ns = 0
        self.failure: CasbankError | None = None

    def acquire(self, pins: Sequence[str] = (), check: Callable[[Snapshot], None] | None = None) -> None:
        """Append its first LEASE operation, unless ``check`` raises in the state that it follows; then it lives."""

        def decide(now: Snapshot) -> list[Op]:
            if check is not None:
                check(now)
            return [self.op(pins)]

        self.seq = self._commit(decide)

    def renew(self) -> None:
        """Extend it. LeaseError (kind LEASE_LOST) if it was fenced or released meanwhile."""
        self._commit(lambda now: [self.renewal(now)])

    def renewal(self, now: Snapshot, pins: Sequence[bytes | str] = ()) -> Op:
        """The operation that extends it in the state that the record follows, and pins more."""
        if now.lease(self.id) is None:
            raise LeaseError("the lease was released or fenced", kind=ErrorKind.LEASE_LOST, lease=self.id)
        return self.op(pins)

    def op(self, pins: Sequence[bytes | str]) -> Op:
        """A LEASE operation that ends a ttl from now."""
        self.expires_ns = self._world.now_ns() + self._ttl_ns
        return Lease(self.id, self._owner, self._kind, self.acquired_ns, self.expires_ns, tuple(pins), self._note)

    def release(self) -> None:
        """End it. A lease that has ended is released."""

        def decide(now: Snapshot) -> list[Op]:
            return [] if now.lease(self.id) is None else [Release(self.id, "released")]

        self._commit(decide)

    @property
    def renew_after_s(self) -> float:
        """How long after one renewal the next is due."""
        return self._ttl_ns / _NS / _RENEWALS_A_TTL


class LeaseKeeper:
    """Renews leases in the background: one thread for all leases of an open bank, while there are any.

    A failed renewal is kept in ``HeldLease.failure`` and told to the lease's callback; it is tried again until the
    lease is known to be lost.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: dict[HeldLease, _Kept] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def keep(self, lease: HeldLease, on_failure: OnFailure | None = None) -> None:
        """Renew a lease until :meth:`let_go`."""
        with self._changed:
            if self._closed:
                raise InvalidInputError("the bank is closed", kind=ErrorKind.CLOSED)
            self._kept[lease] = _Kept(on_failure, time.monotonic() + lease.renew_after_s)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="casbank-leases", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def let_go(self, lease: HeldLease) -> None:
        with self._changed:
            self._kept.pop(lease, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Renew nothing any more; waits for a renewal that is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        # A callback may be what closes the bank.
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while due := self._wait():
            for lease, on_failure in due:
                self._renew(lease, on_failure)

    def _wait(self) -> list[tuple[HeldLease, OnFailure | None]]:
        """The leases that are due, once there are any; none when there is nothing to keep any more."""
        with self._changed:
            while self._kept and not self._closed:
                now = time.monotonic()
                due = [(lease, kept.on_failure) for lease, kept in self._kept.items() if kept.due <= now]
                if due:
                    for lease, on_failure in due:
                        self._kept[lease] = _Kept(on_failure, now + lease.renew_after_s)
                    return due
                self._changed.wait(min(kept.due for kept in self._kept.values()) - now)
            self._thread = None
            return []

    def _renew(self, lease: HeldLease, on_failure: OnFailure | None) -> None:
        try:
            lease.renew()
            lease.failure = None
        except CasbankError as error:
            _log.warning("a lease could not be renewed: %s", error)
            lease.failure = error
            if isinstance(error, LeaseError):
                self.let_go(lease)
            if on_failure is not None:
                _tell(on_failure, error)


def _tell(on_failure: OnFailure, error: CasbankError) -> None:
    try:
        on_failure(error)
    except Exception:
        # The caller's own: it must not keep other leases from being renewed.
        _log.exception("the callback of a lease failed")


class Fencing(NamedTuple):
    """A lease that may be ended, and why."""

    row: LeaseRow
    reason: str


def fenceable(rows: Sequence[LeaseRow], now_ns: int, margin_s: float) -> list[Fencing]:
    """Leases that are expired by more than the margin for skewed clocks, or whose owner is known to be dead."""
    found = []
    for row in rows:
        if is_known_dead(decode_owner(row.owner)):
            found.append(Fencing(row, "its owner is dead"))
        elif row.expires_ns + margin_s * _NS < now_ns:
            found.append(Fencing(row, "it has expired"))
    return found


def fence(now: Snapshot, wanted: Sequence[Fencing]) -> list[Op]:
    """The operations that end leases, but for those that were renewed or released meanwhile."""
    return [
        Release(item.row.id, "fenced")
        for item in wanted
        if (row := now.lease(item.row.id)) is not None and row.expires_ns == item.row.expires_ns
    ]


def parse_lease_id(text: str) -> bytes:
    """InvalidInputError unless it is 32 hexadecimal digits."""
    lease_id = parse_id(text.lower()) if isinstance(text, str) else None
    if lease_id is None:
        raise InvalidInputError(f"not the id of a lease: {text!r}")
    return lease_id


def check_lease_options(owner: str, ttl_s: float, kind: str, pins: Sequence[str], note: str) -> None:
    """InvalidInputError for what no caller can ask for."""
    if kind not in ("client", "read", "pin"):
        raise InvalidInputError(f"kind is client, read or pin, not {kind!r}")
    if not isinstance(pins, list | tuple) or not all(isinstance(name, str) for name in pins):
        raise InvalidInputError("pins is a list of names")
    if bool(pins) is not (kind == "pin") or len(pins) > limits.LEASE_PINS_MAX:
        raise InvalidInputError(f"a lease of kind pin names 1 to {limits.LEASE_PINS_MAX} objects, no other names any")
    _check_ttl(ttl_s)
    for text in (owner, note):
        if not isinstance(text, str) or len(text.encode(errors="surrogatepass")) > limits.LEASE_TEXT_BYTES_MAX:
            raise InvalidInputError(f"owner and note are texts of at most {limits.LEASE_TEXT_BYTES_MAX} bytes")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidInputError("owner and note must be UTF-8") from None


def _check_ttl(ttl_s: float) -> None:
    if type(ttl_s) not in (int, float) or not 0 < ttl_s <= limits.LEASE_TTL_S_MAX:
        raise InvalidInputError(f"ttl_s is a number of seconds, at most {limits.LEASE_TTL_S_MAX}, not {ttl_s!r}")


def renew_lease(engine: "Leasing", lease_id: bytes, ttl_s: float) -> None:
    """Extend a lease that another process may have acquired."""
    _check_ttl(ttl_s)

    def decide(now: Snapshot) -> list[Op]:
        row = now.lease(lease_id)
        if row is None:
            raise LeaseError("the lease was released or fenced", kind=ErrorKind.LEASE_LOST, lease=lease_id)
        expires_ns = engine.world.now_ns() + int(ttl_s * _NS)
        return [Lease(lease_id, row.owner, row.kind, row.acquired_ns, expires_ns, (), row.note)]

    engine.commit(decide)


def release_lease(engine: "Leasing", lease_id: bytes) -> None:
    """End a lease that another process may have acquired."""

    def decide(now: Snapshot) -> list[Op]:
        if now.lease(lease_id) is None:
            raise LeaseError("no such lease: it has ended, or never was", kind=ErrorKind.LEASE_UNKNOWN, lease=lease_id)
        return [Release(lease_id, "released")]

    engine.commit(decide)


def describe_lease(row: LeaseRow, pins: int) -> LeaseInfo:
    """A living lease, as its users see it."""
    owner = decode_owner(row.owner)
    return LeaseInfo(
        id=row.id.hex(),
        seq=row.seq,
        kind=row.kind,
        owner=owner.text,
        host=owner.host,
        pid=owner.pid,
        note=row.note,
        acquired_ns=row.acquired_ns,
        expires_ns=row.expires_ns,
        pins=pins,
        is_owner_dead=is_known_dead(owner),
    )
