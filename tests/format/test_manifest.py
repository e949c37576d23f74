"""The tree that lists an object's chunks."""

import struct
from collections.abc import Callable, Iterable
from itertools import count

import pytest
from blake3 import blake3
from format_cases import ids32
from hypothesis import given, settings
from hypothesis import strategies as st

from casbank import limits
from casbank.errors import CorruptionError, UnsupportedFormatError
from casbank.format.manifest import (
    InnerRow,
    LeafRow,
    ManifestBuilder,
    Tree,
    decode_inner,
    decode_leaf,
    encode_inner,
    encode_leaf,
    ends_node,
)
from casbank.model import EntryType
from casbank.sealing.ids import PLAIN_IDS

ENDS = bytes(32)
GOES_ON = b"\1" + bytes(31)
NodeId = Callable[[bytes], bytes]


def hashed(number: int) -> bytes:
    return blake3(number.to_bytes(8, "little")).digest()


def always(number: int) -> bytes:
    """Ids that all end a node."""
    return b"\0\xfe" + hashed(number)[2:]


def never(number: int) -> bytes:
    """Ids that end no node."""
    return b"\0\xff" + hashed(number)[2:]


class Nodes:
    """Holds the nodes of trees; ``node_id`` stands for the bank's hash of a node."""

    def __init__(self, node_id: NodeId = PLAIN_IDS.node) -> None:
        self._node_id = node_id
        self.by_id: dict[bytes, tuple[EntryType, bytes]] = {}

    def store(self, kind: EntryType, node: bytes) -> bytes:
        node_id = self._node_id(node)
        self.by_id[node_id] = (kind, node)
        return node_id

    def build(self, rows: Iterable[LeafRow]) -> Tree:
        builder = ManifestBuilder(self.store)
        for row in rows:
            builder.add(*row)
        return builder.finish()

    def levels(self, tree: Tree) -> list[list[bytes]]:
        """Ids of the nodes of each level, the root first, in order; a reader needs the depth to tell what they are."""
        levels = [[tree.root]]
        for _ in range(tree.depth - 1):
            levels.append([row.id for node in levels[-1] for row in self._inner(node)])
        return levels

    def chunks(self, tree: Tree) -> list[LeafRow]:
        if not tree.depth:
            return [LeafRow(tree.root, tree.size)]
        return [row for leaf in self.levels(tree)[-1] for row in self._leaf(leaf)]

    def ends_as_told(self, tree: Tree) -> bool:
        """Whether every node of every level ends at the first row that ends it, but for the last of its level."""
        for level in self.levels(tree):
            for node in level:
                ids = self.row_ids(node)
                if any(ends_node(row_id, rows) for rows, row_id in enumerate(ids[:-1], 1)):
                    return False
                if node is not level[-1] and not ends_node(ids[-1], len(ids)):
                    return False
        return True

    def row_ids(self, node_id: bytes) -> list[bytes]:
        kind, node = self.by_id[node_id]
        return [row.id for row in (decode_leaf(node) if kind == EntryType.LEAVES else decode_inner(node))]

    def _inner(self, node_id: bytes) -> list[InnerRow]:
        kind, node = self.by_id[node_id]
        assert kind == EntryType.INNER_NODES
        return decode_inner(node)

    def _leaf(self, node_id: bytes) -> list[LeafRow]:
        kind, node = self.by_id[node_id]
        assert kind == EntryType.LEAVES
        return decode_leaf(node)

    def check(self, node_id: bytes, depth: int) -> tuple[int, int]:
        """Bytes and chunks below a node, every row on the way compared with what is there."""
        if depth == 1:
            rows = self._leaf(node_id)
            return sum(row.raw for row in rows), len(rows)
        below = [self.check(row.id, depth - 1) for row in self._inner(node_id)]
        assert below == [(row.bytes_below, row.chunks_below) for row in self._inner(node_id)]
        return sum(size for size, _ in below), sum(chunks for _, chunks in below)


def rows_of(number: int, ids: Callable[[int], bytes] = hashed) -> list[LeafRow]:
    return [LeafRow(ids(index), 1 + index % 1000) for index in range(number)]


# --- nodes -----------------------------------------------------------------------------------------------------------

leaf_rows = st.lists(st.builds(LeafRow, ids32, st.integers(1, limits.CHUNK_BYTES_MAX)), min_size=1, max_size=20)
sizes = st.tuples(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1)).map(sorted)
inner_rows = st.lists(
    st.builds(lambda node, pair: InnerRow(node, pair[1], pair[0]), ids32, sizes), min_size=1, max_size=20
)


@given(leaf_rows)
def test_leaf_round_trips(rows: list[LeafRow]) -> None:
    """A leaf decodes to the rows that were encoded, 40 bytes each."""
    assert decode_leaf(encode_leaf(rows)) == rows
    assert encode_leaf(rows)[:40] == rows[0].id + struct.pack("<II", rows[0].raw, 0)


@given(inner_rows)
def test_inner_node_round_trips(rows: list[InnerRow]) -> None:
    """An inner node decodes to the rows that were encoded, 48 bytes each."""
    assert decode_inner(encode_inner(rows)) == rows
    assert encode_inner(rows)[:48] == rows[0].id + struct.pack("<QQ", rows[0].bytes_below, rows[0].chunks_below)


@pytest.mark.parametrize("raw", [0, limits.CHUNK_BYTES_MAX + 1, 2**32 - 1])
def test_chunk_length_out_of_range_is_corruption(raw: int) -> None:
    """No chunk is empty or larger than the limit."""
    with pytest.raises(CorruptionError):
        decode_leaf(bytes(32) + struct.pack("<II", raw, 0))


@pytest.mark.parametrize("flag", range(32))
def test_unknown_leaf_flags_are_unsupported(flag: int) -> None:
    """A flag of a later version is refused as such."""
    with pytest.raises(UnsupportedFormatError):
        decode_leaf(bytes(32) + struct.pack("<II", 1, 1 << flag))


@pytest.mark.parametrize(("size", "chunks"), [(0, 0), (0, 1), (1, 0), (1, 2), (2**63, 1), (2**64 - 1, 2**64 - 1)])
def test_counts_out_of_range_are_corruption(size: int, chunks: int) -> None:
    """Below an inner row there is at least one chunk, and at least one byte for each."""
    with pytest.raises(CorruptionError):
        decode_inner(bytes(32) + struct.pack("<QQ", size, chunks))


def test_nodes_have_one_to_2048_rows() -> None:
    """An empty node, one of 2,049 rows and one of half a row are refused."""
    leaf, inner = encode_leaf(rows_of(1)), encode_inner([InnerRow(ENDS, 5, 1)])
    assert len(decode_leaf(leaf * 2048)) == len(decode_inner(inner * 2048)) == 2048
    for times in (0, 2049):
        with pytest.raises(CorruptionError):
            decode_leaf(leaf * times)
        with pytest.raises(CorruptionError):
            decode_inner(inner * times)
    with pytest.raises(CorruptionError):
        decode_leaf(leaf[:-1])
    with pytest.raises(CorruptionError):
        decode_inner(inner[:-1])


@pytest.mark.parametrize(
    ("row_id", "rows", "ends"),
    [
        (ENDS, 127, False),
        (ENDS, 128, True),
        (ENDS, 2048, True),
        (GOES_ON, 2047, False),
        (GOES_ON, 2048, True),
        (b"\0\1" + bytes(30), 500, False),
        (b"\0\2" + bytes(30), 500, True),
        (b"\0\xfe" + b"\xff" * 30, 500, True),
        (b"\x80\0" + bytes(30), 500, False),
    ],
)
def test_node_ends_by_the_low_nine_bits(row_id: bytes, rows: int, ends: bool) -> None:
    """A node ends where the id's first two bytes, little-endian, have nine low zero bits, within 128 to 2048 rows."""
    assert ends_node(row_id, rows) is ends


# --- trees -----------------------------------------------------------------------------------------------------------

SIZES = [1, 2, 127, 128, 129, 256, 2047, 2048, 2049, 5000, 30_000]


@pytest.mark.parametrize("ids", [hashed, always, never])
@pytest.mark.parametrize("number", SIZES)
def test_tree_lists_the_chunks_that_were_added(number: int, ids: Callable[[int], bytes]) -> None:
    """The leaves, walked from the root, list every chunk once and in order, and every count above them is true."""
    rows, nodes = rows_of(number, ids), Nodes()
    tree = nodes.build(rows)
    assert nodes.chunks(tree) == rows
    assert tree.size == sum(row.raw for row in rows)
    assert (tree.depth == 0) == (number == 1)
    assert not tree.depth or nodes.check(tree.root, tree.depth) == (tree.size, number)
    assert not tree.depth or nodes.ends_as_told(tree)


@pytest.mark.parametrize("end", [b"\0\0", b"\0\1"], ids=["always", "never"])
@pytest.mark.parametrize("number", [128, 128 * 128, 128 * 128 + 1, 128 * 129, 40_000])
def test_tree_stands_whatever_the_ids_of_its_nodes(number: int, end: bytes) -> None:
    """Inner levels whose rows all end a node, or none does, hold the same chunks and end where the rule says."""
    numbers = count()
    nodes = Nodes(lambda _: end + hashed(next(numbers))[2:])
    rows = rows_of(number, always)
    tree = nodes.build(rows)
    assert nodes.chunks(tree) == rows
    assert nodes.check(tree.root, tree.depth) == (tree.size, number)
    assert nodes.ends_as_told(tree)


@given(st.lists(st.tuples(st.sampled_from([always, never]), st.integers(1, 300)), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_tree_of_any_mixture_of_ids(runs: list[tuple[Callable[[int], bytes], int]]) -> None:
    """Whatever runs of ids an object has, its tree lists them, each node ending where the rule says."""
    ids = [kind(number) for kind, length in runs for number in range(length)]
    rows, nodes = [LeafRow(chunk, 7) for chunk in ids], Nodes()
    tree = nodes.build(rows)
    assert nodes.chunks(tree) == rows
    assert not tree.depth or nodes.ends_as_told(tree)


@pytest.mark.parametrize("number", SIZES)
def test_equal_content_has_an_equal_root(number: int) -> None:
    """The same chunks make the same tree, node for node."""
    one, other = Nodes(), Nodes()
    assert one.build(rows_of(number)) == other.build(rows_of(number))
    assert one.by_id == other.by_id


def test_root_is_never_a_lonely_row() -> None:
    """The tree is as low as it can be: its root lists two rows at least."""
    nodes = Nodes()
    for number in SIZES[1:]:
        assert len(nodes.row_ids(nodes.build(rows_of(number)).root)) >= 2


ROWS = rows_of(100_000)
UNEDITED = Nodes()
LEVELS = UNEDITED.levels(UNEDITED.build(ROWS))
FRESH = LeafRow(hashed(2**40), 5)


@pytest.mark.parametrize("at", [0, 1, 33_333, 50_000, 77_777, 99_999])
@pytest.mark.parametrize("edit", ["change", "insert", "delete"])
def test_edit_rewrites_few_nodes(at: int, edit: str) -> None:
    """One chunk changed, added or removed among 100,000 leaves all but a few nodes of each level as they were."""
    edited = ROWS[:at] + ([] if edit == "delete" else [FRESH]) + ROWS[at + (edit != "insert") :]
    nodes = Nodes()
    after = nodes.levels(nodes.build(edited))
    assert len(LEVELS) == len(after)
    assert len(LEVELS[-1]) > 100
    for old, new in zip(LEVELS, after, strict=True):
        assert len(set(new) - set(old)) <= 3
