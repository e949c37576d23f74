"""Reading what is left of an object that lost bytes.

Rule 1: a hole is what cannot be had from any live pack, after everything that others wrote was replayed: chunks, or all
that is below a manifest node. It is as long as the manifest above it says.
Rule 2: a store that fails is no hole, nor is a version that was collected under its reader, nor a damaged index.
Rule 3: whole content is read as ``reader.py`` does, in ranges; only a range that fails is read chunk by chunk.
"""

from collections.abc import Iterator
from itertools import chain, groupby, islice
from typing import NamedTuple

from blake3 import blake3

from casbank.engine.ranges import Range, Wanted, grouped
from casbank.engine.reader import MAY_BE_GONE, PLAN_CHUNKS, ObjectReader, check_sum
from casbank.errors import LOST_KINDS, CorruptionError, ErrorKind, NotFoundError
from casbank.format.descriptor import Descriptor
from casbank.format.manifest import decode_inner, decode_leaf
from casbank.model import EntryType, Hole


class _Part(NamedTuple):
    """A chunk of the object, or all that is below a node that is lost."""

    start: int
    raw: int
    id: bytes
    loss: ErrorKind | None = None


class _Lost(NamedTuple):
    """So many bytes that cannot be had, and why."""

    raw: int
    loss: ErrorKind


class HoleReader:
    """Reads objects of one bank with holes where they lost bytes; for any thread."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader

    def pieces(self, name: str, item: Descriptor, start: int) -> Iterator[memoryview | Hole]:
        """What there is from ``start`` to the object's end, in order: bytes, and holes of any length.

        The digest is compared if all of the object is there. Raises NotFoundError (kind GONE), StoreError, and
        CorruptionError for damage that no hole can stand for.
        """
        if item.inline is not None or start >= item.size:
            yield from self._reader.pieces(name, item, start, item.size)
            return
        try:
            yield from self._stored_pieces(name, item, start)
        except CorruptionError as error:
            raise CorruptionError(error.message, kind=error.kind, object=name, **error.context) from error

    def _stored_pieces(self, name: str, item: Descriptor, start: int) -> Iterator[memoryview | Hole]:
        parts = self._parts(_Part(0, item.size, item.root), item.depth, start)
        first = next(parts)
        at = first.start
        hasher = blake3() if item.digest is not None and start == 0 else None
        for piece in self._reader.ahead(self._tasks(chain([first], parts)), self._do, eager=False):
            skipped = max(0, start - at)
            if isinstance(piece, _Lost):
                self._check_not_gone(name, item, piece.loss)
                hasher = None
                yield Hole(at + skipped, piece.raw - skipped)
                at += piece.raw
                continue
            at += len(piece)
            if hasher is not None:
                hasher.update(piece)
                if at == item.size and hasher.digest() != item.digest:
                    raise CorruptionError("the content does not match its digest", kind=ErrorKind.DIGEST)
            yield piece[skipped:]

    def _check_not_gone(self, name: str, item: Descriptor, loss: ErrorKind) -> None:
        if loss in MAY_BE_GONE and not self._reader.is_current(name, item):
            raise NotFoundError(
                "this version was deleted or replaced, and has been collected since", kind=ErrorKind.GONE, name=name
            )

    # --- the manifest ------------------------------------------------------------------------------------------

    def _parts(self, top: _Part, depth: int, start: int) -> Iterator[_Part]:
        """The chunks below a node, from the one with byte ``start`` on; nodes that are lost in the place of theirs."""
        if top.start + top.raw <= start:
            return
        if depth == 0:
            yield top
            return
        try:
            below = self._below(top, depth)
        except CorruptionError as error:
            yield top._replace(loss=_loss(error))
            return
        for part in below:
            yield from self._parts(part, depth - 1, start)

    def _below(self, node: _Part, depth: int) -> list[_Part]:
        """What a node lists. CorruptionError if it cannot be had, or is not as long as it has to be."""
        data = self._any_copy(node.id, EntryType.LEAVES if depth == 1 else EntryType.INNER_NODES)
        if depth == 1:
            rows = [(row.id, row.raw) for row in decode_leaf(data)]
        else:
            rows = [(row.id, row.bytes_below) for row in decode_inner(data)]
        check_sum(sum(length for _, length in rows), node.raw)
        parts, at = [], node.start
        for row_id, length in rows:
            parts.append(_Part(at, length, row_id))
            at += length
        return parts

    # --- chunks ------------------------------------------------------------------------------------------------

    def _tasks(self, parts: Iterator[_Part]) -> Iterator[Range | _Lost]:
        """Ranges to fetch, and what is known to be lost without."""
        window = 1
        while batch := list(islice(parts, window)):
            window = min(PLAN_CHUNKS, window * 4)
            found = self._reader.find([part.id for part in batch if part.loss is None])
            for loss, run in groupby(batch, key=lambda part: _known_loss(part, found)):
                if loss is None:
                    yield from grouped(found[part.id] for part in run)
                else:
                    yield _Lost(sum(part.raw for part in run), loss)

    def _do(self, task: Range | _Lost) -> list[memoryview | _Lost]:
        if isinstance(task, _Lost):
            return [task]
        try:
            return [*self._reader.open(task, self._reader.id_of(EntryType.CHUNKS))]
        except CorruptionError as error:
            _loss(error)
        return [self._alone(chunk) for chunk in task.wanted]

    def _alone(self, chunk: Wanted) -> memoryview | _Lost:
        try:
            return self._any_copy(chunk.id, EntryType.CHUNKS)
        except CorruptionError as error:
            return _Lost(chunk.place.raw, _loss(error))

    def _any_copy(self, wanted_id: bytes, kind: EntryType) -> memoryview:
        """A chunk or node from the first of the live packs with it that gives it."""
        failure = CorruptionError("a chunk is in no live pack", kind=ErrorKind.CHUNK_ID, chunk=wanted_id)
        for copy in self._reader.copies(wanted_id):
            if copy.place.row.type != kind:
                failure = CorruptionError("a manifest names what is of another kind", kind=ErrorKind.MANIFEST)
                continue
            try:
                # Bytes of its own: a small chunk must not keep a large entry in memory.
                return memoryview(bytes(self._reader.open(Range.of(copy), self._reader.id_of(kind))[0]))
            except CorruptionError as error:
                _loss(error)
                failure = error
        raise failure


def _known_loss(part: _Part, found: dict[bytes, Wanted]) -> ErrorKind | None:
    """Why a part cannot be had, if that is known without reading it."""
    if part.loss is not None:
        return part.loss
    if part.id not in found:
        return ErrorKind.CHUNK_ID
    place = found[part.id].place
    return None if (place.raw, place.row.type) == (part.raw, EntryType.CHUNKS) else ErrorKind.MANIFEST


def _loss(error: CorruptionError) -> ErrorKind:
    """What a failure says is lost; raised again if it says nothing of that kind."""
    if error.kind not in LOST_KINDS:
        raise error
    return error.kind
