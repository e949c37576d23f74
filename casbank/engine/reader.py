"""From an object's descriptor to its bytes.

Rule 1: every chunk's and node's id is compared on every read: a tag proves what was sealed, not that it is what its
name says.
Rule 2: a chunk that is missing may mean a stale view: replay and look again before saying so. What is lost or damaged
is named: object, chunk, pack and offset.
Rule 3: memory is bounded: a few ranges are fetched ahead, each of some mebibytes.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from blake3 import blake3

from casbank import limits
from casbank.engine.packs import PackReader
from casbank.engine.ranges import Range, Wanted, grouped
from casbank.engine.resources import WORKERS, Resources
from casbank.errors import CorruptionError, ErrorKind, NotFoundError
from casbank.format.descriptor import Descriptor, decode_descriptor
from casbank.format.manifest import InnerRow, LeafRow, decode_inner, decode_leaf
from casbank.format.seal import IdOf
from casbank.index.tables import PackRow
from casbank.index.transaction import Snapshot
from casbank.model import Buffer, EntryType

_AHEAD = WORKERS + 1
# Chunks that are looked up in one index transaction.
PLAN_CHUNKS = 512
_PACK_ROWS = 4096
# What a version that was collected under a slow reader looks like.
MAY_BE_GONE = frozenset({ErrorKind.CHUNK_ID, ErrorKind.PACK_MISSING})

_Task = TypeVar("_Task")
_Piece = TypeVar("_Piece")


class EntryCache:
    """Plain bytes of what was opened lately, at most ``limits.ENTRY_CACHE_BYTES``: neighbours share entries."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[bytes, int], Buffer] = OrderedDict()
        self._bytes = 0
        self._mutex = threading.Lock()

    def get(self, key: tuple[bytes, int]) -> Buffer | None:
        with self._mutex:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: tuple[bytes, int], plain: Buffer) -> None:
        with self._mutex:
            if key in self._entries:
                return
            self._entries[key] = plain
            self._bytes += len(plain)
            while self._bytes > limits.ENTRY_CACHE_BYTES:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= len(dropped)


class ObjectReader:
    """Reads objects of one bank; for any thread."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._packs: PackReader = resources.packs
        self._cache = EntryCache()
        self._pack_rows: dict[int, PackRow] = {}

    def pieces(self, name: str, item: Descriptor, start: int, end: int, *, eager: bool = True) -> Iterator[memoryview]:
        """The bytes from ``start`` to ``end`` (within the object), in order, fetched ahead.

        Not ``eager``: the first ranges are small and fetched one by one, for a caller that may stop soon.
        """
        if start >= end:
            return
        try:
            if item.inline is not None:
                if self._resources.ids.chunk(item.inline) != item.root:
                    raise CorruptionError("inline content does not match its id", kind=ErrorKind.CHUNK_ID)
                yield memoryview(item.inline)[start:end]
                return
            yield from self._stored_pieces(item, start, end, eager=eager)
        except CorruptionError as error:
            if error.kind in MAY_BE_GONE and not self.is_current(name, item):
                raise NotFoundError(
                    "this version was deleted or replaced, and has been collected since", kind=ErrorKind.GONE, name=name
                ) from error
            raise CorruptionError(error.message, kind=error.kind, object=name, **error.context) from error

    def is_current(self, name: str, item: Descriptor) -> bool:
        """Whether this is what the name has now, after everything that others wrote."""
        self._resources.follower.catch_up()
        with self._resources.follower.read() as snapshot:
            row = snapshot.name(name.encode())
        return row is not None and decode_descriptor(row.descriptor).root == item.root

    def chunks(self, rows: Iterator[LeafRow], kind: EntryType) -> Iterator[memoryview]:
        """The plain bytes of chunks, or of manifest nodes, in any order; neighbours are fetched together and ahead."""
        return self._fetch(rows, kind, eager=True)

    def node(self, node_id: bytes, depth: int) -> bytes:
        """The bytes of a manifest node, ``depth`` 1 for a leaf. CorruptionError if it cannot be had."""
        return self._node(node_id, depth)

    def _stored_pieces(self, item: Descriptor, start: int, end: int, *, eager: bool) -> Iterator[memoryview]:
        first, rows = self._chunks_from(item, start)
        at = first
        # Who reads all of it in order gets the digest checked, before the last piece is let out.
        hasher = blake3() if item.digest is not None and (start, end) == (0, item.size) else None
        for piece in self._fetch(_until(rows, end - first), EntryType.CHUNKS, eager=eager):
            if hasher is not None:
                hasher.update(piece)
                if at + len(piece) == end and hasher.digest() != item.digest:
                    raise CorruptionError("the content does not match its digest", kind=ErrorKind.DIGEST)
            yield piece[max(0, start - at) : end - at]
            at += len(piece)
        if at < end:
            raise CorruptionError("the manifest ends before the object does", kind=ErrorKind.MANIFEST, offset=at)

    # --- the manifest ------------------------------------------------------------------------------------------

    def _chunks_from(self, item: Descriptor, start: int) -> tuple[int, Iterator[LeafRow]]:
        """Offset of the chunk that holds byte ``start``, and the chunks from there on."""
        if item.depth == 0:
            return 0, iter([LeafRow(item.root, item.size)])
        return self._descend(item.root, item.depth, item.size, 0, start)

    def _descend(self, node_id: bytes, depth: int, size: int, base: int, start: int) -> tuple[int, Iterator[LeafRow]]:
        """The chunks of a node of ``size`` bytes, which begins at offset ``base``, from the one with ``start`` on."""
        node = self._node(node_id, depth)
        if depth == 1:
            leaf_rows = decode_leaf(node)
            check_sum(sum(row.raw for row in leaf_rows), size)
            for number, row in enumerate(leaf_rows):
                if base + row.raw > start:
                    return base, iter(leaf_rows[number:])
                base += row.raw
            return base, iter(())
        rows = decode_inner(node)
        check_sum(sum(row.bytes_below for row in rows), size)
        for number, inner in enumerate(rows):
            if base + inner.bytes_below > start:
                first, chunks = self._descend(inner.id, depth - 1, inner.bytes_below, base, start)
                return first, self._then(chunks, rows[number + 1 :], depth - 1)
            base += inner.bytes_below
        return base, iter(())

    def _then(self, chunks: Iterator[LeafRow], nodes: list[InnerRow], depth: int) -> Iterator[LeafRow]:
        yield from chunks
        for node in nodes:
            yield from self._descend(node.id, depth, node.bytes_below, 0, 0)[1]

    def _node(self, node_id: bytes, depth: int) -> bytes:
        kind = EntryType.LEAVES if depth == 1 else EntryType.INNER_NODES
        wanted = self._locate([node_id])[0]
        if wanted.place.row.type != kind:
            raise CorruptionError("a manifest names what is no node of that depth", kind=ErrorKind.MANIFEST)
        return bytes(self.open(Range.of(wanted), self._resources.ids.node)[0])

    # --- chunks ------------------------------------------------------------------------------------------------

    def _fetch(self, rows: Iterator[LeafRow], kind: EntryType, *, eager: bool) -> Iterator[memoryview]:
        """The chunks' bytes in order, a few ranges ahead."""
        ranges = self._ranges(rows, kind, PLAN_CHUNKS if eager else 1)
        return self.ahead(ranges, partial(self.open, id_of=self.id_of(kind)), eager=eager)

    def id_of(self, kind: EntryType) -> IdOf:
        """How the ids of chunks, or of nodes, are made."""
        return self._resources.ids.chunk if kind is EntryType.CHUNKS else self._resources.ids.node

    def ahead(self, tasks: Iterator[_Task], do: Callable[[_Task], list[_Piece]], *, eager: bool) -> Iterator[_Piece]:
        """What the tasks give, in order; a few of them are done ahead, by the workers."""
        start = list(islice(tasks, 2))
        if len(start) == 1:
            # Most objects: a worker would take longer to wake up.
            yield from do(start[0])
            return
        under_way: deque[Future[list[_Piece]]] = deque()
        ahead = _AHEAD if eager else 1
        try:
            for task in chain(start, tasks):
                under_way.append(self._resources.work(partial(do, task)))
                if len(under_way) >= ahead:
                    yield from under_way.popleft().result()
                    ahead = min(_AHEAD, ahead + 1)
            while under_way:
                self._resources.check_usable()
                yield from under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def _ranges(self, rows: Iterator[LeafRow], kind: EntryType, window: int) -> Iterator[Range]:
        while batch := list(islice(rows, window)):
            window = min(PLAN_CHUNKS, window * 4)
            chunks = self._locate([row.id for row in batch])
            for chunk, row in zip(chunks, batch, strict=True):
                if chunk.place.raw != row.raw or chunk.place.row.type != kind:
                    raise CorruptionError(
                        "a chunk is not what its manifest says", kind=ErrorKind.MANIFEST, chunk=row.id
                    )
            yield from grouped(chunks)

    def find(self, ids: list[bytes]) -> dict[bytes, Wanted]:
        """Where those of the chunks are that are in a live pack."""
        found = self._look_up(ids)
        if len(found) < len(set(ids)):
            # Rule 2.
            self._resources.follower.catch_up()
            found = self._look_up(ids)
        return found

    def copies(self, chunk_id: bytes) -> list[Wanted]:
        """Every place where a chunk or node is, after everything that others wrote."""
        self._resources.follower.catch_up()
        with self._resources.follower.read() as snapshot:
            return [
                Wanted(chunk_id, place, self._pack(snapshot, place.pack_number))
                for _, places in snapshot.all_copies([chunk_id])
                for place in places
            ]

    def _locate(self, ids: list[bytes]) -> list[Wanted]:
        found = self.find(ids)
        for chunk_id in ids:
            if chunk_id not in found:
                raise CorruptionError("a chunk is in no live pack", kind=ErrorKind.CHUNK_ID, chunk=chunk_id)
        return [found[chunk_id] for chunk_id in ids]

    def _look_up(self, ids: list[bytes]) -> dict[bytes, Wanted]:
        found = {}
        with self._resources.follower.read() as snapshot:
            for chunk_id in ids:
                place = snapshot.chunk(chunk_id)
                if place is not None:
                    found[chunk_id] = Wanted(chunk_id, place, self._pack(snapshot, place.pack_number))
        return found

    def _pack(self, snapshot: Snapshot, number: int) -> PackRow:
        row = self._pack_rows.get(number)
        if row is None:
            row = snapshot.pack(number)
            if row is None:
                raise CorruptionError(
                    "the index names a pack that it does not know; run 'casbank index rebuild'",
                    kind=ErrorKind.INDEX_VALUE,
                )
            if len(self._pack_rows) >= _PACK_ROWS:
                self._pack_rows.clear()
            self._pack_rows[number] = row
        return row

    def open(self, found: Range, id_of: IdOf) -> list[memoryview]:
        """The chunks of a range, each checked against its id."""
        try:
            plain = self._plain(found)
        except NotFoundError as error:
            if not self._was_swept(found.pack):
                raise CorruptionError(
                    "a live pack is missing",
                    kind=ErrorKind.PACK_MISSING,
                    pack=found.pack.info.id,
                    offset=found.entries[0].offset,
                    chunk=found.wanted[0].id,
                ) from error
            # Rule 2, as often as it takes: another pack has them now.
            return [self._alone(chunk.id, id_of) for chunk in found.wanted]
        pieces = []
        for chunk in found.wanted:
            start = chunk.place.start
            piece = memoryview(plain[chunk.place.entry])[start : start + chunk.place.raw]
            if id_of(piece) != chunk.id:
                raise CorruptionError(
                    "a chunk's bytes do not match its id",
                    kind=ErrorKind.CHUNK_ID,
                    chunk=chunk.id,
                    pack=found.pack.info.id,
                    offset=chunk.place.offset,
                )
            pieces.append(piece)
        return pieces

    def _alone(self, chunk_id: bytes, id_of: IdOf) -> memoryview:
        return self.open(Range.of(self._locate([chunk_id])[0]), id_of)[0]

    def _was_swept(self, pack: PackRow) -> bool:
        """Whether a pack that is missing is not live any more in what was replayed after it was missed."""
        self._resources.follower.catch_up()
        with self._resources.follower.read() as snapshot:
            return snapshot.pack_number(pack.info.id) is None

    def _plain(self, found: Range) -> dict[int, Buffer]:
        pack_id = found.pack.info.id
        plain = {entry.number: self._cache.get((pack_id, entry.number)) for entry in found.entries}
        cached = {number: data for number, data in plain.items() if data is not None}
        if len(cached) == len(found.entries):
            return cached
        opened = self._packs.entries(found.pack, found.entries)
        fresh = {entry.number: data for entry, data in zip(found.entries, opened, strict=True)}
        for number, data in fresh.items():
            self._cache.put((pack_id, number), data)
        return fresh


def check_sum(found: int, size: int) -> None:
    """CorruptionError unless a node's rows add up to what the node above says of it."""
    if found != size:
        raise CorruptionError(f"a manifest node of {size} bytes adds up to {found}", kind=ErrorKind.MANIFEST)


def _until(rows: Iterator[LeafRow], size: int) -> Iterator[LeafRow]:
    """As many chunks as hold ``size`` bytes."""
    while size > 0:
        row = next(rows, None)
        if row is None:
            return
        yield row
        size -= row.raw
