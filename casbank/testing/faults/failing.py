"""The n-th call fails, as SQLite tests it: for every n, until the workload runs through untouched.

Rule 1: only calls that can fail in that way are counted: a disk is never too full to read.
Rule 2: a call that fails does nothing, but for ``close``, after which the descriptor is gone as on Linux.
Rule 3: a short write writes half of what it was given.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from casbank.testing.faults.calls import Call, interposed
from casbank.testing.faults.recorder import IGNORED


class Fault(Enum):
    """How a call fails."""

    EIO = errno.EIO
    ENOSPC = errno.ENOSPC
    EINTR = errno.EINTR
    SHORT_WRITE = 0


_WRITES = frozenset({"write", "writev", "pwrite", "pwritev"})
_TAKES_SPACE = _WRITES | {"mkdir", "link", "rename", "replace", "posix_fallocate", "fsync", "fdatasync"}


@dataclass(slots=True)
class Failure:
    """``calls``: how many were made that can fail so; ``failed``: the first that did, None if it was never reached."""

    fault: Fault
    number: int
    forever: bool
    calls: int = 0
    failed: str | None = None

    def handle(self, call: Call, run: Callable[..., Any]) -> Any:
        """Make the call, or let it fail."""
        if not self._can_fail(call):
            return run()
        self.calls += 1
        if self.calls != self.number and not (self.forever and self.calls > self.number):
            return run()
        self.failed = self.failed or str(call)
        if self.fault is Fault.SHORT_WRITE:
            return run(*_halved(call))
        if call.name == "close":
            run()
        raise OSError(self.fault.value, os.strerror(self.fault.value), call.path)

    def _can_fail(self, call: Call) -> bool:
        if self.fault is Fault.SHORT_WRITE:
            return call.name in _WRITES
        if self.fault is Fault.ENOSPC:
            return call.name in _TAKES_SPACE or (call.name == "open" and bool(call.arguments[1] & os.O_CREAT))
        return True


def _halved(call: Call) -> tuple[Any, ...]:
    descriptor, data, *rest = call.arguments
    if not call.name.endswith("v"):
        return descriptor, data[: -(-len(data) // 2)], *rest
    whole = b"".join(map(bytes, data))
    return descriptor, [whole[: -(-len(whole) // 2)]], *rest


@contextmanager
def failing(
    root: Path, number: int, fault: Fault, *, forever: bool = False, ignored: Sequence[str] = IGNORED
) -> Iterator[Failure]:
    """Let the ``number``-th call (from 1) that concerns ``root`` fail, or all from there on.

    The value says whether that many calls were made: a loop over all numbers ends when ``failed`` is None.
    """
    failure = Failure(fault, number, forever)
    with interposed(root, failure.handle, ignored):
        yield failure
