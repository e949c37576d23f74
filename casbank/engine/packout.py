"""Packs on their way out: groups in, sealed and stored packs, and the operation that publishes them.

Rule: a pack that failed breaks the output: what was in it may be relied on already.
"""

from collections import deque
from concurrent.futures import Future
from functools import partial

from casbank.engine.packing import FinishedPack, Group, PackBuilder
from casbank.engine.resources import Resources
from casbank.format.header import Kind
from casbank.format.messages import ARRAY_LENGTH_MAX
from casbank.format.pack import pack_name
from casbank.format.record import Packs
from casbank.index.apply import Contents
from casbank.model import PackInfo

# Packs on their way to the store beside the one that is filled: 32 MiB each.
_UPLOADS_MAX = 1


class PackOutput:
    """The open packs of one writer; for one thread."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._open: dict[Kind, PackBuilder] = {}
        self._uploads: deque[Future[None]] = deque()
        self._unpublished: list[PackInfo] = []
        self.contents: dict[bytes, Contents] = {}

    def add(self, kind: Kind, group: Group) -> None:
        """Add an entry to the open pack of a kind, which goes to the store when it is full."""
        builder = self._open.get(kind)
        if builder is None:
            buffer = self._resources.pack_buffers.take()
            builder = PackBuilder(kind, self._resources.sealing, self._resources.world, buffer)
            self._open[kind] = builder
        builder.add(group)
        if builder.is_full:
            self._send(self._open.pop(kind))

    @property
    def packs(self) -> int:
        """Number of packs that are stored, or on their way, and not published."""
        return len(self._unpublished) + len(self._uploads)

    @property
    def is_untouched(self) -> bool:
        """Whether no pack is begun that is not published."""
        return not (self._open or self._uploads or self._unpublished)

    def close(self) -> None:
        """Store what is open, and wait until everything is durable."""
        while self._open:
            self._send(self._open.popitem()[1])
        while self._uploads:
            self._uploads.popleft().result()

    def publication(self, lease_id: bytes | None) -> list[Packs]:
        """The operations that publish what is stored; pinned by a lease if there is one."""
        infos = tuple(self._unpublished)
        starts = range(0, len(infos), ARRAY_LENGTH_MAX)
        return [Packs(infos[start : start + ARRAY_LENGTH_MAX], lease_id) for start in starts]

    def published(self) -> list[PackInfo]:
        """To be called once those are in the journal; the packs."""
        infos, self._unpublished, self.contents = self._unpublished, [], {}
        return infos

    def _send(self, full: PackBuilder) -> None:
        """Let an uploader finish and store a pack."""
        while len(self._uploads) >= _UPLOADS_MAX:
            self._uploads.popleft().result()
        self._uploads.append(self._resources.upload(partial(self._upload, full)))

    def _upload(self, full: PackBuilder) -> None:
        pack: FinishedPack = full.finish()
        self._resources.store.put_new(pack_name(pack.info.id), pack.parts)
        self._resources.pack_buffers.give(full.buffer)
        self.contents[pack.info.id] = pack.contents
        self._unpublished.append(pack.info)
