"""What the operations of one open bank share: its parts, its threads, its buffers."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from casbank import limits
from casbank.chunking import Chunker
from casbank.engine.commit import Decide
from casbank.engine.follow import Follower
from casbank.engine.packing import PACK_BUFFER_BYTES
from casbank.engine.packs import PackReader
from casbank.format.seal import Sealing
from casbank.index.apply import Contents
from casbank.sealing.ids import Ids
from casbank.storage.base import Store
from casbank.world import World

# More threads than this only wait for the interpreter's lock.
WORKERS = max(2, min(8, os.cpu_count() or 2))
# Threads that store packs, for all writers of a bank.
_UPLOADERS = 2
_SPARE_BUFFERS = 8
_SPARE_PACK_BUFFERS = 2


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
    commit: Callable[[Decide, dict[bytes, Contents]], int]
    world: World
    buffers: BufferPool
    pack_buffers: BufferPool = field(default_factory=lambda: BufferPool(PACK_BUFFER_BYTES, _SPARE_PACK_BUFFERS))
    workers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(WORKERS, thread_name_prefix="casbank-work")
    )
    uploaders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_UPLOADERS, thread_name_prefix="casbank-store")
    )

    def close(self) -> None:
        """End the threads; whatever they still do comes to nothing that is visible."""
        self.workers.shutdown(cancel_futures=True)
        self.uploaders.shutdown(cancel_futures=True)


def buffer_bytes(chunker: Chunker) -> int:
    """Size of a read buffer: several times the longest chunk, since undecided bytes at its end are scanned again."""
    return max(limits.BATCH_BYTES, 4 * chunker.profile.max_bytes)
