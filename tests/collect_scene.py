"""A clock to move, collections without windows and graces, and somebody in another process who sweeps."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bank_scene import engine_of

from casbank import Bank, CollectReport, World
from casbank.index.transaction import Edit
from casbank.storage.local import LocalStore

DAY_S = 86_400
# Beyond the ttl of a lease and the margin for skewed clocks.
LEASE_GONE_S = 1000

# Does with a bank what a line of standard input says, and tells the result.
SERVANT = """
import json, sys, time
from casbank import Bank, World
for line in sys.stdin:
    place, later_s, grace_s, what, *names = json.loads(line)
    world = World(now_ns=lambda: time.time_ns() + int(later_s * 1e9))
    with Bank.open(place, world=world) as bank:
        if what == "sweep":
            for name in names:
                bank.delete(name)
            # Of so few packs many are orphans.
            result = bank.collect(bank.plan_collection(0, grace_s, force=True)).swept_packs
        elif what == "release":
            ids = [lease.id for lease in bank.leases()]
            for lease in ids:
                bank.release_lease(lease)
            result = len(ids)
        else:
            result = [lease.kind for lease in bank.leases()]
    print(json.dumps(result), flush=True)
"""


class Clock:
    """A wall clock that goes when it is told to; it begins at the real time, which is that of the files."""

    def __init__(self) -> None:
        self.ns = time.time_ns()
        self.world = World(now_ns=lambda: self.ns)

    def go(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


def collect_now(bank: Bank, **options: Any) -> CollectReport:
    """Collect all that nothing reaches, removed versions too, and delete it at once."""
    return bank.collect(bank.plan_collection(0, 0, **options))


class Servant:
    """A process that opens banks beside ours."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child

    def sweep(self, place: Path, *names: str, later_s: float = 0, grace_s: float = 0) -> int:
        """Delete the names and collect, by a clock that is ahead; the number of packs that were swept."""
        return int(self._ask(place, later_s, grace_s, "sweep", *names))

    def release_all(self, place: Path) -> int:
        """End every lease."""
        return int(self._ask(place, 0, 0, "release"))

    def leases(self, place: Path) -> list[str]:
        """The kinds of all living leases."""
        return list(self._ask(place, 0, 0, "leases"))

    def _ask(self, place: Path, *arguments: object) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([str(place), *arguments]) + "\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())


@contextmanager
def counting() -> Iterator[list[str]]:
    """The names of all blobs that are read of local stores meanwhile."""
    names: list[str] = []
    get = LocalStore.get

    def counted(self: LocalStore, name: str, start: int = 0, length: int | None = None) -> bytes:
        names.append(name)
        return get(self, name, start, length)

    LocalStore.get = counted  # type: ignore[method-assign]
    try:
        yield names
    finally:
        LocalStore.get = get  # type: ignore[method-assign]


def edit_index(bank: Bank, change: Callable[[Edit], None]) -> None:
    """Falsify the index."""
    engine_of(bank).follower._view.update(change)


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
