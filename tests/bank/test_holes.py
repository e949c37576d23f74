"""Reading an object that lost bytes: what is left of it, zeros for the rest, and a map of these that is exact."""

import os
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from bank_scene import MIB, content, engine_of, flip, memory_place, packs_of
from collect_scene import collect_now, edit_index
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casbank import Bank, CorruptionError, ErrorKind, Hole, NotFoundError, ObjectFile, StoreError, limits
from casbank.engine.batch import NOTHING
from casbank.engine.holemap import HoleMap
from casbank.format.descriptor import Descriptor, decode_descriptor, encode_descriptor
from casbank.format.manifest import decode_inner, decode_leaf
from casbank.format.pack import pack_name
from casbank.format.record import Put
from casbank.index.transaction import Edit

CHUNK = 512
GIB = 2**30

Entry = tuple[Path, int]
"""A pack, and the offset of an entry in it."""


@pytest.fixture(autouse=True, scope="module")
def small_limits() -> Iterator[None]:
    """A few chunks an entry, a few entries a pack, a few rows a node; nothing stays in memory that was read once."""
    values = {
        "PACK_BYTES_TARGET": 8000,
        "BATCH_BYTES": 8192,
        "GROUP_BYTES_TARGET": 4 * CHUNK,
        "NODE_ROWS_MIN": 3,
        "NODE_ROWS_MAX": 8,
        "NODE_BOUNDARY_MASK": 1,
        "ENTRY_CACHE_BYTES": 0,
        "COALESCE_BYTES_MAX": 6000,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(limits, name, value)
        yield


@pytest.fixture
def bank(place: Path) -> Iterator[Bank]:
    """A bank that cuts every 512 bytes."""
    with Bank.create(place, chunking=f"fixed:{CHUNK}") as made:
        yield made


@dataclass
class Node:
    """A piece of an object's tree: what it covers, every entry that it is in, what is below it."""

    start: int
    size: int
    entries: set[Entry]
    below: list["Node"]

    def all_entries(self) -> set[Entry]:
        return self.entries.union(*(node.all_entries() for node in self.below))

    def lost(self, damaged: set[Entry]) -> Iterator[range]:
        """What cannot be read when these entries cannot."""
        if self.entries <= damaged:
            yield range(self.start, self.start + self.size)
        else:
            for node in self.below:
                yield from node.lost(damaged)


def descriptor_of(bank: Bank, name: str) -> Descriptor:
    with engine_of(bank).follower.read() as snapshot:
        row = snapshot.name(name.encode())
    assert row is not None
    return decode_descriptor(row.descriptor)


def tree_of(bank: Bank, place: Path, name: str) -> Node:
    """Where everything of an object lies."""
    reader = engine_of(bank).reader

    def node(node_id: bytes, depth: int, start: int, size: int) -> Node:
        copies = [(place / pack_name(copy.pack.info.id), copy.place.offset) for copy in reader.copies(node_id)]
        rows: list[tuple[bytes, int]] = []
        if depth == 1:
            rows = [(row.id, row.raw) for row in decode_leaf(reader.node(node_id, depth))]
        elif depth > 1:
            rows = [(row.id, row.bytes_below) for row in decode_inner(reader.node(node_id, depth))]
        below, at = [], start
        for row_id, length in rows:
            below.append(node(row_id, depth - 1, at, length))
            at += length
        return Node(start, size, set(copies), below)

    item = descriptor_of(bank, name)
    return node(item.root, item.depth, 0, item.size)


def holes_of(lost: Iterable[range]) -> list[Hole]:
    """Stretches in order as a map shows them."""
    found: list[Hole] = []
    for piece in lost:
        if found and sum(found[-1]) == piece.start:
            found[-1] = Hole(found[-1].start, found[-1].length + len(piece))
        else:
            found.append(Hole(piece.start, len(piece)))
    return found


def zeroed(data: bytes, lost: Iterable[Hole]) -> bytes:
    """The data with zeros where it is lost."""
    whole = bytearray(data)
    for start, length in lost:
        whole[start : start + length] = bytes(length)
    return bytes(whole)


@contextmanager
def flipped(entries: Iterable[Entry], inside: int) -> Iterator[None]:
    """One byte of each entry is another one for a while."""
    changed = [(pack, offset + inside) for pack, offset in sorted(entries)]
    for pack, offset in changed:
        flip(pack, offset)
    try:
        yield
    finally:
        for pack, offset in changed:
            flip(pack, offset)


def read_with_holes(bank: Bank, name: str) -> tuple[bytes, list[Hole]]:
    with bank.open_object(name, allow_holes=True) as file:
        return file.read(), file.holes


def put_descriptor(bank: Bank, name: str, item: Descriptor) -> None:
    """Let a name have what no writer would give it."""
    engine_of(bank).commit(lambda now: [Put(name, encode_descriptor(item), None)], None, NOTHING)


# --- any damage ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bank, Path]]:
    """A bank that examples fill, damage, and put in order again."""
    folder = tmp_path_factory.mktemp("holes")
    key = folder / "key"
    key.write_bytes(bytes(range(32)))
    options = {"key_file": key, "cache_dir": folder / "cache"} if request.param == "encrypted" else {}
    with Bank.create(folder / "bank", chunking=f"fixed:{CHUNK}", **options) as made:
        yield made, folder / "bank"


# Which entries there are depends on what examples before stored; so they are drawn by numbers that wrap around.
NUMBERS = st.sets(st.integers(0, 1000), max_size=12)


def some_entries(tree: Node, numbers: set[int]) -> set[Entry]:
    entries = sorted(tree.all_entries())
    return {entries[number % len(entries)] for number in numbers}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 300), min_size=5, max_size=120), st.integers(0, CHUNK), st.data())
def test_holes_are_what_was_damaged(
    stored: tuple[Bank, Path], blocks: list[int], tail: int, data: st.DataObject
) -> None:
    """Whatever entries fail, of chunks and of nodes, the rest is read as it was, and the map is exact: everything
    that no whole copy is left of, also after seeking about, and nothing else."""
    bank, place = stored
    whole = b"".join(content(block, CHUNK) for block in blocks) + content("tail", tail)
    bank.put("x", whole)
    tree = tree_of(bank, place, "x")
    damaged = some_entries(tree, data.draw(NUMBERS))
    holes = holes_of(tree.lost(damaged))
    expected = zeroed(whole, holes)
    with flipped(damaged, 3), bank.open_object("x", allow_holes=True) as file:
        for _ in range(data.draw(st.integers(0, 3))):
            start, length = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 3000))
            file.seek(start)
            assert file.read(length) == expected[start : start + length]
            assert all(any(a <= c and c + d <= a + b for a, b in holes) for c, d in file.holes)
        file.seek(0)
        assert file.read() == expected
        assert file.holes == holes
        assert file.holes_omitted_bytes == 0
    assert read_with_holes(bank, "x") == (whole, [])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_range_has_the_holes_within_it(stored: tuple[Bank, Path], data: st.DataObject) -> None:
    """What was not read is not in the map: of a hole that begins before a range or ends behind it, the rest is not."""
    bank, place = stored
    whole = content("range", 60_000)
    bank.put("range", whole)
    tree = tree_of(bank, place, "range")
    damaged = some_entries(tree, data.draw(NUMBERS))
    lost = holes_of(tree.lost(damaged))
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, len(whole)))
    cut = [(max(start, first), min(end, first + length)) for first, length in lost]
    with flipped(damaged, 0), bank.open_object("range", allow_holes=True) as file:
        file.seek(start)
        assert file.read(end - start) == zeroed(whole, lost)[start:end]
        assert file.holes == [Hole(first, last - first) for first, last in cut if first < last]


# --- packs ---------------------------------------------------------------------------------------------------------


def cut_pack(pack: Path) -> None:
    """Within its first entry."""
    pack.chmod(0o644)
    os.truncate(pack, 128 + 3 * CHUNK)


@pytest.mark.parametrize("spoil", [Path.unlink, cut_pack], ids=["missing", "cut"])
@pytest.mark.parametrize("reopened", [False, True], ids=["known", "index-rebuilt"])
def test_a_pack_that_is_missing_or_cut(place: Path, bank: Bank, spoil: Callable[[Path], None], reopened: bool) -> None:
    """The chunks of a data pack that is gone are holes, whether the index knew the pack or was made without it."""
    whole = content(1, 50_000)
    bank.put("x", whole)
    tree = tree_of(bank, place, "x")
    packs = {pack for node in leaves_of(tree) for pack, _ in node.entries}
    assert len(packs) > 2
    # Not the last one, which may be shorter than what is left of one that is cut.
    doomed = max(packs, key=lambda pack: pack.stat().st_size)
    spoil(doomed)
    lost = holes_of(tree.lost({entry for entry in tree.all_entries() if entry[0] == doomed}))
    if reopened:
        bank.rebuild_index()
    assert read_with_holes(bank, "x") == (zeroed(whole, lost), lost)
    with pytest.raises(CorruptionError), bank.open_object("x") as file:
        file.read()


def leaves_of(tree: Node) -> Iterator[Node]:
    """The chunks."""
    if not tree.below:
        yield tree
    for node in tree.below:
        yield from leaves_of(node)


def test_all_nodes_are_lost(place: Path, bank: Bank) -> None:
    """Without the packs that its manifest is in, an object is one hole of its whole length."""
    bank.put("x", content(1, 50_000))
    tree = tree_of(bank, place, "x")
    for pack in {pack for pack, _ in tree.all_entries()} - {e[0] for leaf in leaves_of(tree) for e in leaf.entries}:
        pack.unlink()
    assert read_with_holes(bank, "x") == (bytes(50_000), [Hole(0, 50_000)])


def test_a_lost_node_is_as_long_as_its_parent_says(place: Path, bank: Bank) -> None:
    """What is below one node that is lost is one hole, and what is beside it is read."""
    whole = content(1, 200_000)
    bank.put("x", whole)
    tree = tree_of(bank, place, "x")
    node = next(child for child in tree.below if child.below and not child.entries & tree.entries)
    lost = holes_of(tree.lost(node.entries))
    assert any(hole.start <= node.start and sum(hole) >= node.start + node.size for hole in lost)
    with flipped(node.entries, 10):
        assert read_with_holes(bank, "x") == (zeroed(whole, lost), lost)


def test_nodes_that_do_not_add_up(bank: Bank) -> None:
    """A manifest of another length than the descriptor says tells nothing about where its chunks belong."""
    bank.put("x", content(1, 50_000))
    put_descriptor(bank, "x", replace(descriptor_of(bank, "x"), size=50_001))
    assert read_with_holes(bank, "x") == (bytes(50_001), [Hole(0, 50_001)])


def test_an_object_of_one_chunk(tmp_path: Path) -> None:
    """An object without a manifest is there or is one hole."""
    with Bank.create(tmp_path / "one") as bank:
        bank.put("x", content(1, 5000))
        assert read_with_holes(bank, "x") == (content(1, 5000), [])
        (pack,) = packs_of(tmp_path / "one")
        flip(pack, 1000)
        assert read_with_holes(bank, "x") == (bytes(5000), [Hole(0, 5000)])


def test_inline_content_has_no_holes(bank: Bank) -> None:
    """What is kept in the record is read as ever, to its end and from behind it."""
    bank.put("x", b"short")
    bank.put("empty", b"")
    assert read_with_holes(bank, "x") == (b"short", [])
    assert read_with_holes(bank, "empty") == (b"", [])
    with bank.open_object("x", allow_holes=True) as file:
        file.seek(9)
        assert file.read() == b""


def test_a_second_copy_is_no_hole(place: Path, bank: Bank) -> None:
    """A chunk that another live pack has too is not lost, whichever of the two is damaged."""
    whole = content(1, 50_000)
    with bank.batch() as one, bank.batch() as other:
        one.put("x", whole)
        other.put("y", whole)
    doubled = [leaf for leaf in leaves_of(tree_of(bank, place, "x")) if len(leaf.entries) == 2]
    assert len(doubled) > 20
    for leaf in doubled[::10]:
        for entry in leaf.entries:
            with flipped({entry}, 5), bank.open_object("x", allow_holes=True) as file:
                file.seek(leaf.start)
                assert file.read(leaf.size) == whole[leaf.start : leaf.start + leaf.size]
                assert file.holes == []
        with flipped(leaf.entries, 5), bank.open_object("x", allow_holes=True) as file:
            file.seek(leaf.start)
            assert file.read(leaf.size) == bytes(leaf.size)


# --- what is no hole -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["chunk", "node"])
def test_a_failing_store_is_no_hole(place: Path, bank: Bank, which: str) -> None:
    """A file that cannot be read now may be readable later: zeros would be a lie."""
    bank.put("x", content(1, 50_000))
    tree = tree_of(bank, place, "x")
    node = next(leaves_of(tree)) if which == "chunk" else tree
    ((pack, _),) = node.entries
    bank.close()
    pack.unlink()
    pack.symlink_to(pack.name)
    with Bank.open(place) as again, again.open_object("x", allow_holes=True) as file:
        with pytest.raises(StoreError):
            file.read()
        assert file.holes == []


def test_a_collected_version_is_gone(bank: Bank) -> None:
    """A version that was removed and collected under its reader is GONE, from its root down and in its middle."""
    bank.put("x", content(1, 50_000))
    files = [bank.open_object("x", allow_holes=True) for _ in range(2)]
    files[1].read(100)
    bank.put("x", content(2, 50_000))
    assert collect_now(bank, force=True).deleted_packs
    for file in files:
        with pytest.raises(NotFoundError) as caught:
            file.read()
        assert caught.value.kind is ErrorKind.GONE
        assert file.holes == []
        file.close()


def test_a_swept_pack_is_looked_up_again(place: Path, bank: Bank) -> None:
    """What a collection copied elsewhere while it was read is not lost."""
    blocks = [content(number, 4 * CHUNK) for number in range(40)]
    bank.put("both", b"".join(blocks))
    bank.put("x", b"".join(blocks[::2]))
    with bank.open_object("x", allow_holes=True) as file:
        first = file.read(3 * CHUNK)
        before = set(packs_of(place))
        bank.delete("both")
        assert collect_now(bank, force=True).copied_bytes
        assert not before <= set(packs_of(place))
        assert first + file.read() == b"".join(blocks[::2])
        assert file.holes == []


def test_a_damaged_index_is_no_hole(bank: Bank) -> None:
    """Where the index contradicts itself nothing is lost: it can be made anew."""
    bank.put("x", content(1, 50_000))
    with engine_of(bank).follower.read() as snapshot:
        keys = [key for key, _ in snapshot.rows("pack")]

    def lose_packs(edit: Edit) -> None:
        for key in keys:
            edit._delete("pack", key)

    edit_index(bank, lose_packs)
    with pytest.raises(CorruptionError) as caught:
        read_with_holes(bank, "x")
    assert caught.value.kind is ErrorKind.INDEX_VALUE


def test_the_digest_is_compared_where_all_is_there(place: Path, bank: Bank) -> None:
    """Chunks that are whole and make another content are damage of their own; with a hole nothing can be compared."""
    whole = content(1, 50_000)
    bank.put("x", whole, digest=True)
    assert read_with_holes(bank, "x") == (whole, [])
    put_descriptor(bank, "x", replace(descriptor_of(bank, "x"), digest=bytes(32)))
    with pytest.raises(CorruptionError) as caught:
        read_with_holes(bank, "x")
    assert (caught.value.kind, caught.value.context["object"]) == (ErrorKind.DIGEST, "x")
    tree = tree_of(bank, place, "x")
    first = next(leaves_of(tree))
    lost = holes_of(tree.lost(first.entries))
    with flipped(first.entries, 1):
        assert read_with_holes(bank, "x") == (zeroed(whole, lost), lost)


def test_without_holes_damage_is_an_error(place: Path, bank: Bank) -> None:
    """Nobody gets zeros who did not ask for them."""
    bank.put("x", content(1, 50_000))
    leaf = next(leaves_of(tree_of(bank, place, "x")))
    with flipped(leaf.entries, 1), bank.open_object("x") as file:
        with pytest.raises(CorruptionError):
            file.read()
        assert file.holes == []


# --- bounds --------------------------------------------------------------------------------------------------------


def test_a_long_hole_takes_little_memory() -> None:
    """A hole of 100 GiB is read a mebibyte at a time, and is one hole wherever it is read."""
    with Bank.create(memory_place()) as bank:
        put_descriptor(bank, "x", Descriptor(100 * GIB, bytes(32), None, 3, 0, 0))
        file = bank.open_object("x", allow_holes=True)
        tracemalloc.start()
        buffer = bytearray(3 * MIB)
        for at in (50 * GIB, 50 * GIB + 3 * MIB, 100 * GIB - 10):
            file.seek(at)
            assert file.readinto(buffer) == min(3 * MIB, 100 * GIB - at)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert file.holes == [Hole(50 * GIB, 6 * MIB), Hole(100 * GIB - 10, 10)]
        assert buffer == bytes(3 * MIB)
        assert peak < 5 * MIB
        file.close()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 10)), max_size=30))
def test_a_map_is_the_set_of_what_was_added(added: list[tuple[int, int]]) -> None:
    """A map has the bytes that were added, in whatever order and however often, as few holes as that takes."""
    found = HoleMap()
    for start, length in added:
        found.add(start, length)
    missing = {at for start, length in added for at in range(start, start + length)}
    assert found.holes() == holes_of(range(at, at + 1) for at in sorted(missing))
    assert found.omitted_bytes == 0


def test_a_map_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no place in a map is counted; what only makes a hole longer always has."""
    monkeypatch.setattr(limits, "HOLES_MAX", 2)
    found = HoleMap()
    for start in (10, 20, 30, 40, 11, 20):
        found.add(start, 1)
    assert found.holes() == [Hole(10, 2), Hole(20, 1)]
    assert found.omitted_bytes == 2


def test_a_file_tells_what_its_map_has_no_place_for(place: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every zero that stands for a lost byte is in the map or counted beside it."""
    monkeypatch.setattr(limits, "HOLES_MAX", 1)
    bank.put("x", content(1, 50_000))
    tree = tree_of(bank, place, "x")
    damaged = {entry for leaf in list(leaves_of(tree))[::16] for entry in leaf.entries}
    holes = holes_of(tree.lost(damaged))
    assert len(holes) > 2
    with flipped(damaged, 1), bank.open_object("x", allow_holes=True) as file:
        file.read()
        assert file.holes == holes[:1]
        assert file.holes_omitted_bytes == sum(hole.length for hole in holes[1:])


def test_a_file_is_read_in_any_steps(place: Path, bank: Bank) -> None:
    """Small reads across the edges of holes give what one large one does, and the same map."""
    whole = content(1, 30_000)
    bank.put("x", whole)
    tree = tree_of(bank, place, "x")
    damaged = {entry for leaf in list(leaves_of(tree))[::9] for entry in leaf.entries}
    with flipped(damaged, 1):
        expected, holes = read_with_holes(bank, "x")
        for step in (1, 100, 511, 513):
            with bank.open_object("x", allow_holes=True) as file:
                assert b"".join(iter(lambda file=file, step=step: file.read(step), b"")) == expected  # type: ignore[misc]
                assert file.holes == holes


def test_an_open_file_mends_with_its_bank(place: Path, bank: Bank) -> None:
    """What is read again after the damage was mended is there again, though the map keeps what was met."""
    whole = content(1, 30_000)
    bank.put("x", whole)
    leaf = next(leaves_of(tree_of(bank, place, "x")))
    file: ObjectFile
    with bank.open_object("x", allow_holes=True) as file:
        with flipped(leaf.entries, 1):
            assert file.read(100) == bytes(100)
        file.seek(30_000)
        file.seek(0)
        assert file.read() == whole
        assert file.holes == [Hole(0, 100)]
