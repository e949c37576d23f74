"""Marking: which chunks and nodes a root reaches, one bit for each.

Rule 1: only meta packs are read. Rule 2 (T): a chunk that a tree names and the index does not know, or a node that
cannot be read, ends the collection; it never counts as dead. Only where a repair has written down that a tree lacks
chunks are those passed over; a lost node is not: what is below it cannot be known. Rule 3: of several copies the newest
is the one that is marked; a pack with another copy *leans* on the pack with that one.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from casbank import limits
from casbank.engine.packs import PackReader, WantedEntry
from casbank.errors import CorruptionError, ErrorKind, NotFoundError
from casbank.format.manifest import decode_inner, decode_leaf
from casbank.index.tables import PackRow
from casbank.index.transaction import Snapshot
from casbank.model import Buffer, EntryType, Location
from casbank.sealing.ids import Ids

Reading = Callable[[], AbstractContextManager[Snapshot]]
_CACHE_BYTES = 8 * limits.MIB


class Moved(Exception):  # noqa: N818 - an answer, not a failure; it never leaves the library
    """What was to be marked is gone: others deleted and collected it meanwhile. Begin anew."""


class Root(NamedTuple):
    """The top of one version's tree."""

    id: bytes
    depth: int


class Shape:
    """How many chunks each pack has, and so where its bits are."""

    def __init__(self, chunks: Iterable[tuple[int, int]]) -> None:
        """``chunks``: pack number and number of chunks."""
        # Numbers are sparse: what each pack has lies in arrays, by its place among those there are.
        self.places: dict[int, int] = {}
        self._base, self._counts = array("Q"), array("L")
        self.total = 0
        for place, (number, count) in enumerate(chunks):
            self.places[number] = place
            self._base.append(self.total)
            self._counts.append(count)
            self.total += count

    def __contains__(self, number: int) -> bool:
        return number in self.places

    def count(self, number: int) -> int:
        """How many chunks a pack has."""
        return self._counts[self.places[number]]

    def bit(self, place: Location) -> int:
        """Where a chunk's bit is. CorruptionError for one that the pack cannot have."""
        pack = self.places[place.pack_number]
        if place.ordinal >= self._counts[pack]:
            raise CorruptionError("the index names a chunk that its pack lacks", kind=ErrorKind.INDEX_VALUE)
        return self._base[pack] + place.ordinal


class Marks:
    """One bit a chunk, and for each pack what is marked: chunks and plain bytes."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._bits = bytearray((shape.total + 7) // 8)
        self._chunks = array("L", bytes(array("L").itemsize * len(shape.places)))
        self._raw = array("Q", bytes(array("Q").itemsize * len(shape.places)))

    def chunks(self, number: int) -> int:
        """How many chunks of a pack are marked."""
        return self._chunks[self._shape.places[number]]

    def raw(self, number: int) -> int:
        """How many plain bytes those are."""
        return self._raw[self._shape.places[number]]

    def has(self, place: Location) -> bool:
        """Whether a chunk is marked."""
        bit = self._shape.bit(place)
        return bool(self._bits[bit >> 3] & (1 << (bit & 7)))

    def add(self, place: Location) -> bool:
        """Mark a chunk; whether it was not marked before."""
        bit = self._shape.bit(place)
        byte, mask = bit >> 3, 1 << (bit & 7)
        if self._bits[byte] & mask:
            return False
        self._bits[byte] |= mask
        pack = self._shape.places[place.pack_number]
        self._chunks[pack] += 1
        self._raw[pack] += place.raw
        return True


class Marker:
    """Walks trees; for one thread."""

    def __init__(self, packs: PackReader, ids: Ids, shape: Shape, reading: Reading) -> None:
        self._packs = packs
        self._ids = ids
        self._shape = shape
        self.reading = reading
        self._opened: OrderedDict[tuple[bytes, int], Buffer] = OrderedDict()
        self._opened_bytes = 0
        # By the number of a pack with a copy that is not marked: packs with the copy that is.
        self.leans: dict[int, set[int]] = {}

    def walk(self, root: Root, take: Callable[[bytes, Location, EntryType], bool], *, has_holes: bool = False) -> None:
        """Hand every node and chunk below a root to ``take``, in order; a node that it refuses is not entered.

        Only what lies in the packs of the shape is handed over; nodes elsewhere are entered all the same.
        ``has_holes``: chunks may be missing.
        """
        if root.depth == 0:
            self._take_all([root.id], take, has_holes=has_holes)
            return
        stack = [root]
        while stack:
            node = stack.pop()
            kind = EntryType.LEAVES if node.depth == 1 else EntryType.INNER_NODES
            ((_, place),) = self._find([node.id])
            if place.pack_number in self._shape and not take(node.id, place, kind):
                continue
            data = self._node(node.id, place)
            if node.depth == 1:
                self._take_all([row.id for row in decode_leaf(data)], take, has_holes=has_holes)
            else:
                stack.extend(Root(row.id, node.depth - 1) for row in reversed(decode_inner(data)))

    def _take_all(
        self, ids: Sequence[bytes], take: Callable[[bytes, Location, EntryType], bool], *, has_holes: bool
    ) -> None:
        for chunk_id, place in self._find(ids, has_holes=has_holes):
            if place.pack_number in self._shape:
                take(chunk_id, place, EntryType.CHUNKS)

    def _find(self, ids: Sequence[bytes], *, has_holes: bool = False) -> list[tuple[bytes, Location]]:
        """The copy that counts of each: the newest in a pack of the shape, or else the newest."""
        found = []
        with self.reading() as snapshot:
            for chunk_id, copies in snapshot.all_copies(ids):
                if not copies:
                    if has_holes:
                        continue
                    raise Moved(chunk_id.hex())
                known = [place for place in copies if place.pack_number in self._shape]
                chosen = (known or copies)[-1]
                for other in known[:-1]:
                    self.leans.setdefault(other.pack_number, set()).add(chosen.pack_number)
                found.append((chunk_id, chosen))
        return found

    def _node(self, node_id: bytes, place: Location) -> bytes:
        with self.reading() as snapshot:
            pack = snapshot.pack(place.pack_number)
        if pack is None:
            raise Moved(node_id.hex())
        plain = self._entry(pack, place)
        data = bytes(memoryview(plain)[place.start : place.start + place.raw])
        if self._ids.node(data) != node_id:
            raise CorruptionError("a node's bytes do not match its id", kind=ErrorKind.CHUNK_ID, chunk=node_id)
        return data

    def _entry(self, pack: PackRow, place: Location) -> Buffer:
        key = pack.info.id, place.entry
        plain = self._opened.get(key)
        if plain is not None:
            self._opened.move_to_end(key)
            return plain
        try:
            (plain,) = self._packs.entries(pack, [WantedEntry(place.entry, place.offset, place.row)])
        except NotFoundError:
            raise Moved(pack.info.id.hex()) from None
        self._opened[key] = plain
        self._opened_bytes += len(plain)
        while self._opened_bytes > _CACHE_BYTES:
            _, dropped = self._opened.popitem(last=False)
            self._opened_bytes -= len(dropped)
        return plain
