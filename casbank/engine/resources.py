"""What the operations of one open bank share: its parts, its threads, its buffers."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from casbank import limits
from casbank.chunking import Chunker
from casbank.engine.commit import Decide
from casbank.engine.follow import Follower
from casbank.engine.leases import LeaseKeeper
from casbank.engine.packing import PACK_BUFFER_BYTES
from casbank.engine.packs import PackReader
from casbank.engine.rules import Backing
from casbank.errors import ErrorKind, InvalidInputError
from casbank.format.seal import Sealing
from casbank.index.apply import Contents
from casbank.sealing.ids import Ids
from casbank.storage.base import Store
from casbank.world import World

_Result = TypeVar("_Result")

# More threads than this only wait for the interpreter's lock.
WORKERS = max(2, min(8, os.cpu_count() or 2))
# Threads that store packs, for all writers of a bank.
_UPLOADERS = 2
_SPARE_BUFFERS = 8
_SPARE_PACK_BUFFERS = 2


class Commit(Protocol):
    """``Engine.commit``."""

    def __call__(
        self, decide: Decide, contents: dict[bytes, Contents] | None = None, backing: Backing = None
    ) -> int: ...


class BufferPool:
    """Reused buffers of one size. The first touch of fresh memory costs more than hashing it."""

    def __init__(self, size: int, spare_max: int = _SPARE_BUFFERS) -> None:
        self.size = size
        self._spare_max = spare_max
        self._spare: list[bytearray] = []
        self._mutex = threading.Lock()

    def take(self) -> bytearray:
        with self._mutex:
            if self._spare:
                return self._spare.pop()
        return bytearray(self.size)

    def give(self, buffer: bytearray) -> None:
        with self._mutex:
            if len(self._spare) < self._spare_max:
                self._spare.append(buffer)


@dataclass(frozen=True, slots=True)
class Resources:
    """Handed to every writer and reader of one bank."""

    store: Store
    sealing: Sealing
    ids: Ids
    chunker: Chunker
    compression: int | None
    packs: PackReader
    follower: Follower
    commit: Commit
    leases: LeaseKeeper
    check_usable: Callable[[], None]
    world: World
    buffers: BufferPool
    pack_buffers: BufferPool = field(default_factory=lambda: BufferPool(PACK_BUFFER_BYTES, _SPARE_PACK_BUFFERS))
    workers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(WORKERS, thread_name_prefix="casbank-work")
    )
    uploaders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_UPLOADERS, thread_name_prefix="casbank-store")
    )

    def work(self, task: Callable[[], _Result]) -> Future[_Result]:
        """Let a worker do it. InvalidInputError if the bank is closed, or was opened by the parent process."""
        return self._submit(self.workers, task)

    def upload(self, task: Callable[[], _Result]) -> Future[_Result]:
        """Let an uploader do it; the same."""
        return self._submit(self.uploaders, task)

    def close(self) -> None:
        """End the threads, once they have done what they were given: somebody may be waiting for it."""
        self.workers.shutdown()
        self.uploaders.shutdown()

    def _submit(self, pool: ThreadPoolExecutor, task: Callable[[], _Result]) -> Future[_Result]:
        # In a forked child there are no threads, and the future would never come.
        self.check_usable()
        try:
            return pool.submit(task)
        except RuntimeError as error:
            raise InvalidInputError("the bank is closed", kind=ErrorKind.CLOSED) from error


def buffer_bytes(chunker: Chunker) -> int:
    """Size of a read buffer: several times the longest chunk, since undecided bytes at its end are scanned again."""
    return max(limits.BATCH_BYTES, 4 * chunker.profile.max_bytes)
