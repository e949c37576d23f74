"""Copying what is live out of packs that are mostly dead, in the order of the objects that use it.

Rule: an old pack is let go only when every chunk of it that something reaches is in packs that are published, and
pinned by the collection's lease. What a killed collection had copied is not lost: of two copies the newer counts.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from casbank import limits
from casbank.engine.holding import Holding
from casbank.engine.packing import Group, make_group
from casbank.engine.packout import PackOutput
from casbank.engine.reader import ObjectReader
from casbank.engine.resources import WORKERS, Resources
from casbank.engine.scratch import ScratchFile
from casbank.engine.survey import Copied, Survey
from casbank.format.header import Kind
from casbank.format.manifest import LeafRow
from casbank.model import EntryType, Location

_ROW = struct.Struct("<32sII")
_ROWS_READ = 4096
# Published together: until then both copies take space.
_PACKS_PUBLISHED = 4
_GROUPS_MAX = 2 * WORKERS


class _Copy(NamedTuple):
    """One chunk to copy: its id and length, and the pack that it is in."""

    id: bytes
    raw: int
    pack: int


class Rewriting:
    """One pass over chosen packs. To be closed."""

    def __init__(self, resources: Resources, reader: ObjectReader, scratch: Path) -> None:
        self._resources = resources
        self._reader = reader
        self._out = PackOutput(resources)
        with ExitStack() as files:
            self._order = {kind: files.enter_context(ScratchFile(scratch)) for kind in EntryType}
            self._files = files.pop_all()
        self.holding = Holding(resources)
        self.copied = Copied()
        self.bytes_copied = 0
        self.bytes_stored = 0
        self._counts: dict[int, int] = {}
        # Groups that workers compress, in order.
        self._under_way: deque[tuple[Future[Group], list[_Copy]]] = deque()

    def close(self) -> None:
        """Release the lease, and let go of temporary files."""
        self.holding.end(released=False)
        self._files.close()

    def run(self, survey: Survey, chosen: set[int], published: Callable[[], bool]) -> None:
        """Copy what is live in the chosen packs. ``published`` is called whenever something is, and says whether to go
        on. Raises Moved, CorruptionError, StoreError."""

        def note(chunk_id: bytes, place: Location, kind: EntryType) -> None:
            if place.pack_number in chosen:
                self._order[kind].write(_ROW.pack(chunk_id, place.raw, place.pack_number))

        survey.walk_again(note)
        self.holding.secure()
        for kind in EntryType:
            if not self._copy(kind, published):
                return
        self._publish()
        published()

    def _copy(self, kind: EntryType, published: Callable[[], bool]) -> bool:
        pack_kind = Kind.DATA_PACK if kind is EntryType.CHUNKS else Kind.META_PACK
        parts: list[memoryview] = []
        members: list[_Copy] = []
        size = 0
        pieces = self._reader.chunks((LeafRow(row.id, row.raw) for row in _rows(self._order[kind])), kind)
        for row, piece in zip(_rows(self._order[kind]), pieces, strict=True):
            if parts and (size + row.raw > limits.GROUP_BYTES_TARGET or len(members) == limits.GROUP_CHUNKS_MAX):
                self._compress(kind, parts, members)
                parts, members, size = [], [], 0
                if len(self._under_way) > _GROUPS_MAX:
                    self._add_oldest(pack_kind)
                if self._out.packs >= _PACKS_PUBLISHED:
                    self._add_all(pack_kind)
                    self._publish()
                    if not published():
                        return False
            parts.append(piece)
            members.append(row)
            size += row.raw
        if parts:
            self._compress(kind, parts, members)
        self._add_all(pack_kind)
        return True

    def _compress(self, kind: EntryType, parts: list[memoryview], members: list[_Copy]) -> None:
        chunks = [(row.id, row.raw) for row in members]
        level = self._resources.compression
        group = self._resources.work(lambda: make_group(kind, b"".join(parts), chunks, level))
        self._under_way.append((group, members))

    def _add_all(self, pack_kind: Kind) -> None:
        while self._under_way:
            self._add_oldest(pack_kind)

    def _add_oldest(self, pack_kind: Kind) -> None:
        group, members = self._under_way.popleft()
        self._out.add(pack_kind, group.result())
        for row in members:
            self._counts[row.pack] = self._counts.get(row.pack, 0) + 1
            self.bytes_copied += row.raw

    def _publish(self) -> None:
        self._out.close()
        ops = self._out.publication(self.holding.lease_id)
        if not ops:
            return
        self._resources.commit(lambda _: ops, self._out.contents, self.holding.reliance)
        made = self._out.published()
        self.copied.add(self._counts, [info.id for info in made])
        self.bytes_stored += sum(info.length for info in made)
        self._counts = {}


def _rows(file: ScratchFile) -> Iterator[_Copy]:
    at = 0
    while True:
        # Two iterations share one file.
        file.seek(at)
        data = file.read(_ROW.size * _ROWS_READ)
        if not data:
            return
        at += len(data)
        yield from (_Copy(*fields) for fields in _ROW.iter_unpack(data))
