"""A lease, as its holder sees it: made by ``Bank.acquire_lease``."""

from collections.abc import Callable
from types import TracebackType

from casbank.engine.leases import HeldLease, LeaseKeeper
from casbank.errors import CasbankError


class Lease:
    """A timestamped record that its owner lives, and what he protects. A context manager, which releases it."""

    def __init__(self, held: HeldLease, keeper: LeaseKeeper, in_child: Callable[[], bool]) -> None:
        self._held = held
        self._keeper = keeper
        self._in_child = in_child

    @property
    def id(self) -> str:
        """Its id, in hex."""
        return self._held.id.hex()

    @property
    def seq(self) -> int:
        """Its fencing number: the number of the record that acquired it. A later lease has a higher one."""
        return self._held.seq

    @property
    def expires_ns(self) -> int:
        """When it expires, unless it is renewed: nanoseconds since 1970 by this machine's clock."""
        return self._held.expires_ns

    @property
    def failure(self) -> CasbankError | None:
        """What the last renewal in the background failed with; None if it did not."""
        return self._held.failure

    def renew(self) -> None:
        """Extend it by its ttl from now.

        Raises LeaseError (kind LEASE_LOST) if it was fenced or released, StoreError.
        """
        self._held.renew()

    def keep_alive(self, on_failure: Callable[[CasbankError], None] | None = None) -> None:
        """Renew it in the background, at a fifth of its ttl, until it is released or the bank is closed.

        A failed renewal is kept in :attr:`failure` and told to ``on_failure``, in another thread.
        """
        self._keeper.keep(self._held, on_failure)

    def release(self) -> None:
        """End it. Idempotent; does nothing in a forked child."""
        if self._in_child():
            return
        self._keeper.let_go(self._held)
        self._held.release()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
