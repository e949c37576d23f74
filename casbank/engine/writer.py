"""From sources to sealed packs and finished manifests; what a put does before it commits.

    source -> buffer -> cut -> [worker: ids, known?, compress] -> seal into the open pack -> [uploader: store]
                                                               -> manifest

Rule 1: everything visible happens in the commit that follows: a session that fails leaves unreferenced packs at most.
Rule 2: memory is bounded whatever the sizes: a fixed number of buffers and packs are under way, and a long session
publishes what it has sealed, so that the index remembers it and the session need not.
Rule 3: results are taken in the order of the input, so an object's chunks, and the packs, are in its order.
Rule 4: a source that fails costs its own object. Anything else that fails (the disk, the index) breaks the session:
objects that were read before may have lost chunks, so it takes in nothing more and cannot be finished.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple

from blake3 import blake3

from casbank import limits
from casbank.engine.holding import Holding
from casbank.engine.packing import Group, make_group
from casbank.engine.packout import PackOutput
from casbank.engine.resources import WORKERS, Resources
from casbank.engine.source import Reader
from casbank.errors import StoreError
from casbank.format.descriptor import Descriptor
from casbank.format.header import Kind
from casbank.format.manifest import ManifestBuilder, Tree
from casbank.format.record import Packs
from casbank.index.apply import Contents
from casbank.index.transaction import Snapshot
from casbank.model import EntryType

# Batches under way: one a worker, one ready for each, one being filled by the caller.
_BATCHES_MAX = WORKERS + 2


@dataclass(slots=True)
class PendingObject:
    """An object whose bytes have been read, but perhaps not hashed yet. ``tree`` comes with the last chunk."""

    metadata: Mapping[str, str | bytes]
    digest: bytes | None = None
    inline: bytes | None = None
    size: int = 0
    tree: Tree | None = None
    builder: ManifestBuilder | None = None
    failed: bool = False

    def descriptor(self, inline_id: bytes, created_ns: int) -> Descriptor:
        """The object as the journal will keep it; ``inline_id`` is used if nothing else is stored of it."""
        assert (self.inline is None) != (self.tree is None), "either inline or stored"
        root, depth = (inline_id, 0) if self.tree is None else (self.tree.root, self.tree.depth)
        return Descriptor(self.size, root, self.digest, depth, 0, created_ns, self.metadata, self.inline)


class _Piece(NamedTuple):
    """One chunk in a batch's buffer, or, if ``last``, the end of an object, which may be several chunks or none."""

    item: PendingObject
    start: int
    length: int
    last: bool


@dataclass(slots=True)
class _Batch:
    """A buffer with chunks in it. Bytes from ``cut`` to ``fill`` belong to the object that is being read."""

    buffer: bytearray
    view: memoryview
    fill: int = 0
    cut: int = 0
    pieces: list[_Piece] = field(default_factory=list)


class _Sealable(NamedTuple):
    """What a worker made of a batch: the ids of its chunks, the new ones in groups, and where the others are."""

    ids: list[bytes]
    groups: list[Group]
    # By the pack that has them, the numbers of the chunks that are known.
    known: dict[int, list[int]]


class Session:
    """Takes in objects, for one commit. For one thread; any number of sessions may run side by side."""

    def __init__(self, resources: Resources, inline_max: int) -> None:
        self._resources = resources
        # What is no longer than the shortest chunk is one chunk however it is stored: equal contents, equal etags.
        self._inline_max = min(inline_max, resources.chunker.profile.min_bytes)
        self._batch: _Batch | None = None
        self._under_way: deque[tuple[_Batch, Future[_Sealable]]] = deque()
        # Chunks that this session has sealed or is about to: to whom each was given.
        self._fresh: dict[bytes, object] = {}
        self._out = PackOutput(resources)
        self.holding = Holding(resources)
        self._read_bytes = 0
        self._nodes: list[tuple[EntryType, bytes, bytes]] = []
        self._nodes_bytes = 0
        self._error: BaseException | None = None

    @property
    def is_broken(self) -> bool:
        """Whether rule 4 has struck."""
        return self._error is not None

    @property
    def is_secured(self) -> bool:
        """Whether it holds a lease."""
        return self.holding.lease_id is not None

    def add(self, reader: Reader, metadata: Mapping[str, str | bytes], *, digest: bool) -> PendingObject:
        """Read an object to its end. If the reader raises, the object is dropped and the session goes on."""
        self._check()
        item = PendingObject(metadata)
        hasher = blake3() if digest else None
        try:
            self._read(item, reader, hasher)
        except BaseException:
            item.failed = True
            if self._batch is not None:
                self._batch.fill = self._batch.cut
            raise
        if hasher is not None:
            item.digest = hasher.digest()
        return item

    def finish(self) -> list[Packs]:
        """Wait until everything is sealed and durable; the packs that the commit must publish."""
        self._check()
        with self._essential():
            self._drain()
            self._seal_nodes()
            self._out.close()
        return self._out.publication(self.holding.lease_id)

    @property
    def contents(self) -> dict[bytes, Contents]:
        """What is in those packs."""
        return self._out.contents

    def secure(self) -> None:
        """Hold a lease and all that was relied on so far. Stale if some of it is gone."""
        self._check()
        with self._essential():
            self.holding.secure(is_first=self._out.is_untouched)

    def _check(self) -> None:
        if self._error is not None:
            raise StoreError("an earlier failure broke this batch; begin a new one") from self._error

    @contextmanager
    def _essential(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._error = error
            raise

    def abandon(self) -> None:
        """Let go of everything; what was stored is not referenced."""
        for _, future in self._under_way:
            future.cancel()
        self._under_way.clear()
        self._batch = None
        self.holding.end(released=False)

    def _read(self, item: PendingObject, reader: Reader, hasher: "blake3 | None") -> None:
        while True:
            batch = self._open_batch()
            count = reader.readinto(batch.view[batch.fill :])
            if count == 0:
                break
            if hasher is not None:
                hasher.update(batch.view[batch.fill : batch.fill + count])
            batch.fill += count
            item.size += count
            if batch.fill == len(batch.buffer):
                self._cut(batch, item)
                self._next_batch(batch)
        reader.close()
        if item.size <= self._inline_max:
            item.inline = bytes(batch.view[batch.cut : batch.fill])
            batch.fill = batch.cut
        else:
            # Nothing follows, so a worker can cut it. No bytes are left of a source that ended where a buffer did.
            batch.pieces.append(_Piece(item, batch.cut, batch.fill - batch.cut, True))
            batch.cut = batch.fill

    def _cut(self, batch: _Batch, item: PendingObject) -> None:
        """Cut what can be cut already; the rest waits for more bytes behind it."""
        for length in self._resources.chunker.cut(batch.view[batch.cut : batch.fill], final=False):
            batch.pieces.append(_Piece(item, batch.cut, length, False))
            batch.cut += length

    def _open_batch(self) -> _Batch:
        if self._batch is None:
            buffer = self._resources.buffers.take()
            self._batch = _Batch(buffer, memoryview(buffer))
        return self._batch

    def _next_batch(self, full: _Batch) -> None:
        """Send a batch on its way; what is not cut yet moves to the next one."""
        self._batch = None
        fresh = self._open_batch()
        rest = full.view[full.cut : full.fill]
        fresh.view[: len(rest)] = rest
        fresh.fill = len(rest)
        self._submit(full)

    def _submit(self, batch: _Batch) -> None:
        with self._essential():
            self._start(batch)
            if len(self._under_way) >= _BATCHES_MAX:
                self._absorb_oldest()
            self._read_bytes += batch.cut
            if self._read_bytes > limits.UNPINNED_BYTES_MAX:
                self.holding.secure()
            if self._out.packs >= limits.SESSION_PACKS_MAX or len(self._fresh) >= limits.SESSION_CHUNKS_MAX:
                self._publish()

    # --- in a worker -------------------------------------------------------------------------------------------

    def _process(self, batch: _Batch) -> _Sealable:
        chunk_id = self._resources.ids.chunk
        view = batch.view
        batch.pieces = [
            chunk for piece in batch.pieces for chunk in (self._chunks(view, piece) if piece.last else (piece,))
        ]
        ids = [chunk_id(view[piece.start : piece.start + piece.length]) for piece in batch.pieces]
        with self._resources.follower.read() as snapshot:
            new, known = self._sort_out(snapshot, batch, ids, range(len(ids)))
        return _Sealable(ids, self._group(batch, ids, new), known)

    def _sort_out(
        self, snapshot: Snapshot, batch: _Batch, ids: list[bytes], numbers: Iterable[int]
    ) -> tuple[list[int], dict[int, list[int]]]:
        """Which chunks of a batch are new, and by pack which are in a live one. The rest is this session's own."""
        # setdefault decides between two workers that meet one chunk: it goes to whoever's mark stays.
        fresh, mark, pack_with = self._fresh, object(), snapshot.pack_with
        new: list[int] = []
        known: dict[int, list[int]] = {}
        for number in numbers:
            name = ids[number]
            if not batch.pieces[number].length or name in fresh:
                continue
            pack = pack_with(name)
            if pack is not None and pack not in known and not snapshot.has_pack(pack):
                # A row that should have gone with its pack.
                pack = None
            if pack is not None:
                known.setdefault(pack, []).append(number)
            elif fresh.setdefault(name, mark) is mark:
                new.append(number)
                mark = object()
        return new, known

    def _chunks(self, view: memoryview, end: _Piece) -> list[_Piece]:
        """The chunks that the end of an object is cut into, the last of them marked."""
        # What is shorter than the shortest chunk is one: most files of most trees.
        if end.length <= self._resources.chunker.profile.min_bytes:
            return [end]
        at, chunks = end.start, []
        for length in self._resources.chunker.cut(view[at : at + end.length], final=True):
            chunks.append(_Piece(end.item, at, length, False))
            at += length
        chunks[-1] = chunks[-1]._replace(last=True)
        return chunks

    def _group(self, batch: _Batch, ids: list[bytes], new: list[int]) -> list[Group]:
        """Compress new neighbours together; a known chunk between two of them does not part them."""
        groups: list[Group] = []
        members: list[int] = []
        size = 0
        for number in new:
            length = batch.pieces[number].length
            if members and (size + length > limits.GROUP_BYTES_TARGET or len(members) == limits.GROUP_CHUNKS_MAX):
                groups.append(self._compress(batch, ids, members))
                members, size = [], 0
            members.append(number)
            size += length
        if members:
            groups.append(self._compress(batch, ids, members))
        return groups

    def _compress(self, batch: _Batch, ids: list[bytes], members: list[int]) -> Group:
        spans = [(batch.pieces[number].start, batch.pieces[number].length) for number in members]
        chunks = [(ids[number], batch.pieces[number].length) for number in members]
        first, end = spans[0][0], spans[-1][0] + spans[-1][1]
        if sum(length for _, length in spans) == end - first:
            return make_group(EntryType.CHUNKS, batch.view[first:end], chunks, self._resources.compression)
        joined = b"".join([batch.view[start : start + length] for start, length in spans])
        return make_group(EntryType.CHUNKS, joined, chunks, self._resources.compression)

    # --- in the session's thread again -------------------------------------------------------------------------

    def _absorb_oldest(self) -> None:
        batch, future = self._under_way.popleft()
        sealable = future.result()
        for group in sealable.groups:
            self._out.add(Kind.DATA_PACK, group)
        # Before the buffer goes: what turns out to be gone is still in it.
        gone = self.holding.rely(sealable.known.keys())
        known = sealable.known
        while gone:
            known = self._store_again(batch, sealable.ids, sorted(chain.from_iterable(known[pack] for pack in gone)))
            gone = self.holding.rely(known.keys())
        for piece, chunk_id in zip(batch.pieces, sealable.ids, strict=True):
            self._grow_manifest(piece, chunk_id)
        self._release(batch)

    def _store_again(self, batch: _Batch, ids: list[bytes], numbers: list[int]) -> dict[int, list[int]]:
        """Store chunks whose pack was swept; those that another pack has, by pack."""
        with self._resources.follower.read() as snapshot:
            new, known = self._sort_out(snapshot, batch, ids, numbers)
        for group in self._group(batch, ids, new):
            self._out.add(Kind.DATA_PACK, group)
        return known

    def _release(self, batch: _Batch) -> None:
        batch.view.release()
        self._resources.buffers.give(batch.buffer)

    def _grow_manifest(self, piece: _Piece, chunk_id: bytes) -> None:
        item = piece.item
        if item.failed:
            return
        if piece.last and item.builder is None:
            item.tree = Tree(chunk_id, 0, piece.length)
            return
        if item.builder is None:
            item.builder = ManifestBuilder(self._store_node)
        if piece.length:
            item.builder.add(chunk_id, piece.length)
        if piece.last:
            item.tree = item.builder.finish()
            item.builder = None

    def _store_node(self, kind: EntryType, node: bytes) -> bytes:
        node_id = self._resources.ids.node(node)
        if node_id in self._fresh or self._is_held(node_id):
            return node_id
        self._fresh[node_id] = node
        if self._nodes and (self._nodes[0][0] is not kind or self._nodes_bytes + len(node) > limits.GROUP_BYTES_TARGET):
            self._seal_nodes()
        self._nodes.append((kind, node_id, node))
        self._nodes_bytes += len(node)
        return node_id

    def _is_held(self, node_id: bytes) -> bool:
        """Whether a live pack has the node; it is relied on then."""
        while True:
            with self._resources.follower.read() as snapshot:
                pack = snapshot.pack_with(node_id)
                if pack is None or not snapshot.has_pack(pack):
                    return False
            if not self.holding.rely([pack]):
                return True

    def _seal_nodes(self) -> None:
        if not self._nodes:
            return
        plain = b"".join(node for _, _, node in self._nodes)
        chunks = [(node_id, len(node)) for _, node_id, node in self._nodes]
        self._out.add(Kind.META_PACK, make_group(self._nodes[0][0], plain, chunks, self._resources.compression))
        for node_id, _ in chunks:
            # The mark need not hold the node any longer.
            self._fresh[node_id] = True
        self._nodes, self._nodes_bytes = [], 0

    def _drain(self) -> None:
        if self._batch is not None:
            batch, self._batch = self._batch, None
            if batch.pieces:
                self._start(batch)
            else:
                self._release(batch)
        while self._under_way:
            self._absorb_oldest()

    def _start(self, batch: _Batch) -> None:
        self._under_way.append((batch, self._resources.work(partial(self._process, batch))))

    def _publish(self) -> None:
        """Rule 2: put what is sealed into the journal, and forget it."""
        while self._under_way:
            self._absorb_oldest()
        self._seal_nodes()
        self._out.close()
        self.holding.secure()
        ops = self._out.publication(self.holding.lease_id)
        self._resources.commit(lambda _: ops, self._out.contents, self.holding.reliance)
        self.holding.own([info.id for info in self._out.published()])
        self._fresh = {}
