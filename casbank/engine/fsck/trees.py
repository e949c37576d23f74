"""Follow every name and every removed version to its last chunk, and find out who is hit by what.

Rule 1: what several objects share is followed once. Rule 2: a chunk is there if one live pack has it in an entry that
nobody found damaged. Rule 3: what is below a node that cannot be read counts as lost, by the sizes that its parent
gives. Rule 4: where a node could not be read for a reason that may pass, that is said, so that nobody takes it for
a loss.
Memory: one bit for each chunk, and what is damaged.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from casbank.engine.fsck.packcheck import may_pass, tried_twice
from casbank.engine.fsck.replay import Replayed
from casbank.engine.marking import Marks, Shape
from casbank.engine.packs import PackReader, WantedEntry
from casbank.errors import CorruptionError, NotFoundError, StoreError, UnsupportedFormatError
from casbank.format.descriptor import Descriptor, decode_descriptor
from casbank.format.loss import LostEntries
from casbank.format.manifest import decode_inner, decode_leaf
from casbank.model import EntryType, Location
from casbank.sealing.ids import Ids

_PAGE = 1000
# Entries with nodes, of a mebibyte at most.
_NODES_CACHED = 16


class Damage(NamedTuple):
    """What of one object cannot be had: ``lost`` bytes in ``pieces`` (chunks, or all that is below a node), and the
    packs that have them."""

    lost: int
    pieces: int
    packs: frozenset[bytes]


NO_DAMAGE = Damage(0, 0, frozenset())


class Version(NamedTuple):
    """One version of a name; ``is_removed`` for one that can be brought back."""

    name: str
    item: Descriptor
    is_removed: bool


@dataclass(slots=True)
class _Piece:
    """A chunk or node that a tree names: its id and the bytes that it stands for."""

    id: bytes
    size: int
    depth: int


class Trees:
    """One pass over everything that has a name."""

    def __init__(self, replayed: Replayed, packs: PackReader, ids: Ids, bad: Mapping[bytes, LostEntries]) -> None:
        """``bad``: by pack, entries that were found damaged."""
        self._replayed = replayed
        self._packs = packs
        self._ids = ids
        self._bad = bad
        # Numbers of packs and their ids: as many as there are packs.
        self._pack_ids: dict[int, bytes] = {}
        counts: list[tuple[int, int]] = []
        with replayed.view.read() as snapshot:
            for number, row in snapshot.packs():
                self._pack_ids[number] = row.info.id
                counts.append((number, row.chunks))
        self._whole = Marks(Shape(counts))
        self._broken: dict[bytes, Damage] = {}
        self._nodes: dict[tuple[bytes, int], memoryview] = {}
        self.objects = 0
        # Packs with nodes that could not be read, and may be whole: what is lost by them is lost for this check alone.
        self.unreadable: set[bytes] = set()

    def run(self, told: Callable[[Version, Damage], None], advance: Callable[[int], None]) -> None:
        """Follow everything; ``told`` is called for each version that is not whole."""
        for version in self._versions():
            self.objects += not version.is_removed
            damage = self._check(version.item)
            if damage.pieces:
                told(version, damage)
            if not self.objects % _PAGE:
                advance(self.objects)

    def is_whole(self, item: Descriptor) -> bool:
        """Whether all of one version can be had."""
        return not self._check(item).pieces

    # --- names -------------------------------------------------------------------------------------------------

    def _versions(self) -> Iterator[Version]:
        after: bytes | None = None
        while True:
            with self._replayed.view.read() as snapshot:
                page = snapshot.names(b"", after, _PAGE, reverse=False)
            for row in page:
                yield Version(row.name.decode(), decode_descriptor(row.descriptor), False)
            if len(page) < _PAGE:
                break
            after = page[-1].name
        removed: tuple[int, int] | None = None
        while True:
            with self._replayed.view.read() as snapshot:
                stones = snapshot.tombstones(removed, _PAGE)
            for stone in stones:
                yield Version(stone.name.decode(), decode_descriptor(stone.descriptor), True)
            if len(stones) < _PAGE:
                return
            removed = stones[-1].removed_seq, stones[-1].ordinal

    # --- trees -------------------------------------------------------------------------------------------------

    def _check(self, item: Descriptor) -> Damage:
        if item.inline is not None:
            fits = self._ids.chunk(item.inline) == item.root
            return NO_DAMAGE if fits else Damage(item.size, 1, frozenset())
        return self._check_all([_Piece(item.root, item.size, item.depth)])

    def _check_all(self, pieces: Sequence[_Piece]) -> Damage:
        """The damage below some siblings. Depth is bounded by the format, so this recursion is."""
        lost, count, packs = 0, 0, frozenset[bytes]()
        for piece, copies in zip(pieces, self._copies(pieces), strict=True):
            damage = self._check_piece(piece, copies)
            if damage.pieces:
                lost, count, packs = lost + damage.lost, count + damage.pieces, packs | damage.packs
        return Damage(lost, count, packs) if count else NO_DAMAGE

    def _copies(self, pieces: Sequence[_Piece]) -> list[list[Location]]:
        with self._replayed.view.read() as snapshot:
            return [copies for _, copies in snapshot.all_copies(piece.id for piece in pieces)]

    def _check_piece(self, piece: _Piece, copies: list[Location]) -> Damage:
        if copies and self._whole.has(copies[0]):
            return NO_DAMAGE
        known = self._broken.get(piece.id)
        if known is None:
            damage = self._look(piece, copies)
            if not damage.pieces:
                if copies:
                    self._whole.add(copies[0])
                return NO_DAMAGE
            known = self._broken[piece.id] = damage
        return known

    def _look(self, piece: _Piece, copies: list[Location]) -> Damage:
        kind = (EntryType.CHUNKS, EntryType.LEAVES)[piece.depth] if piece.depth < 2 else EntryType.INNER_NODES
        good = [place for place in copies if place.row.type == kind and self._is_good(place)]
        if piece.depth == 0:
            if any(place.raw == piece.size for place in good):
                return NO_DAMAGE
        else:
            for place in good:
                node = self._node(piece.id, place)
                rows = None if node is None else _rows(node, piece)
                if rows is not None:
                    return self._check_all(rows)
        return Damage(piece.size, 1, frozenset(self._pack_ids[place.pack_number] for place in copies))

    def _is_good(self, place: Location) -> bool:
        bad = self._bad.get(self._pack_ids[place.pack_number])
        return bad is None or place.entry not in bad

    def _node(self, node_id: bytes, place: Location) -> memoryview | None:
        """A node's bytes; None if they cannot be had from there."""
        try:
            plain = tried_twice(lambda: self._entry(place))
        except (CorruptionError, UnsupportedFormatError, NotFoundError):
            return None
        except StoreError as error:
            if may_pass(error):
                self.unreadable.add(self._pack_ids[place.pack_number])
            return None
        data = plain[place.start : place.start + place.raw]
        return data if self._ids.node(data) == node_id else None

    def _entry(self, place: Location) -> memoryview:
        with self._replayed.view.read() as snapshot:
            pack = snapshot.pack(place.pack_number)
        if pack is None:
            raise NotFoundError("no such pack")
        key = pack.info.id, place.entry
        if key not in self._nodes:
            (plain,) = self._packs.entries(pack, [WantedEntry(place.entry, place.offset, place.row)])
            while len(self._nodes) >= _NODES_CACHED:
                del self._nodes[next(iter(self._nodes))]
            self._nodes[key] = memoryview(plain)
        return self._nodes[key]


def _rows(node: memoryview, piece: _Piece) -> list[_Piece] | None:
    """What a node names; None if it is not what its parent says."""
    try:
        if piece.depth == 1:
            rows = [_Piece(row.id, row.raw, 0) for row in decode_leaf(bytes(node))]
        else:
            rows = [_Piece(row.id, row.bytes_below, piece.depth - 1) for row in decode_inner(bytes(node))]
    except CorruptionError:
        return None
    return rows if sum(row.size for row in rows) == piece.size else None
