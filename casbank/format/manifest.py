"""The tree that lists an object's chunks in order (format, section 5).

Rule 1: a node ends where its row's id says so, not where the object says so: an edit in the middle of a huge object
rewrites one node a level.
Rule 2: the depth in the descriptor says what a node is; a node's bytes carry no type of their own.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.model import Buffer, EntryType

_LEAF = struct.Struct("<32sII")
_INNER = struct.Struct("<32sQQ")


class LeafRow(NamedTuple):
    """One chunk of an object: its id and length."""

    id: bytes
    raw: int


class InnerRow(NamedTuple):
    """One node below another: its id, and the bytes and chunks of the object below it."""

    id: bytes
    bytes_below: int
    chunks_below: int


class Tree(NamedTuple):
    """A finished manifest. Depth 0: the object is one chunk, and ``root`` is that chunk's id."""

    root: bytes
    depth: int
    size: int


def encode_leaf(rows: list[LeafRow]) -> bytes:
    """The bytes of a leaf."""
    return b"".join([_LEAF.pack(row.id, row.raw, 0) for row in rows])


def decode_leaf(data: Buffer) -> list[LeafRow]:
    """The chunks that a leaf lists. Raises CorruptionError or, for flags of a later version, UnsupportedFormatError."""
    _check_length(data, _LEAF.size)
    rows = []
    for chunk_id, raw, flags in _LEAF.iter_unpack(data):
        if flags:
            raise UnsupportedFormatError(f"unknown flags {flags:#x} in a manifest leaf")
        if not 0 < raw <= limits.CHUNK_BYTES_MAX:
            raise CorruptionError("a chunk length in a manifest is out of range", kind=ErrorKind.MANIFEST)
        rows.append(LeafRow(chunk_id, raw))
    return rows


def encode_inner(rows: list[InnerRow]) -> bytes:
    """The bytes of an inner node."""
    return b"".join([_INNER.pack(*row) for row in rows])


def decode_inner(data: Buffer) -> list[InnerRow]:
    """The nodes that an inner node lists."""
    _check_length(data, _INNER.size)
    rows = [InnerRow(*row) for row in _INNER.iter_unpack(data)]
    # No chunk is empty, so there are never more chunks than bytes.
    if any(not 0 < row.chunks_below <= row.bytes_below <= limits.OBJECT_BYTES_MAX for row in rows):
        raise CorruptionError("a length in a manifest is out of range", kind=ErrorKind.MANIFEST)
    return rows


def _check_length(data: Buffer, row_bytes: int) -> None:
    rows, rest = divmod(len(data), row_bytes)
    if rest or not 0 < rows <= limits.NODE_ROWS_MAX:
        raise CorruptionError(f"a manifest node of {len(data)} bytes", kind=ErrorKind.MANIFEST)


def ends_node(row_id: bytes, rows: int) -> bool:
    """Whether a node of ``rows`` rows ends with this row: its low 9 bits are zero, within 128 to 2048 rows."""
    if rows < limits.NODE_ROWS_MIN:
        return False
    boundary = int.from_bytes(row_id[:2], "little") & limits.NODE_BOUNDARY_MASK == 0
    return boundary or rows >= limits.NODE_ROWS_MAX


@dataclass(slots=True)
class _Level:
    leaf_rows: list[LeafRow] = field(default_factory=list)
    inner_rows: list[InnerRow] = field(default_factory=list)
    nodes_closed: int = 0


class ManifestBuilder:
    """Builds a tree from chunks as they come; holds one open node a level.

    ``store(type, node bytes)`` is called for each node as it ends, children first, and returns the node's id.
    """

    def __init__(self, store: Callable[[EntryType, bytes], bytes]) -> None:
        self._store = store
        self._levels = [_Level()]
        self._only: LeafRow | None = None
        self.size = 0
        self.chunks = 0

    def add(self, chunk_id: bytes, raw: int) -> None:
        """Append the object's next chunk."""
        row = LeafRow(chunk_id, raw)
        self._only = row if self.chunks == 0 else None
        self.chunks += 1
        self.size += raw
        rows = self._levels[0].leaf_rows
        rows.append(row)
        if ends_node(chunk_id, len(rows)):
            self._close(0)

    def finish(self) -> Tree:
        """The finished tree. At least one chunk must have been added."""
        if self._only is not None:
            return Tree(self._only.id, 0, self.size)
        depth = 0
        while True:
            level = self._levels[depth]
            if level.leaf_rows or level.inner_rows:
                self._close(depth)
            depth += 1
            above = self._levels[depth]
            if len(above.inner_rows) == 1 and not above.nodes_closed:
                return Tree(above.inner_rows[0].id, depth, self.size)

    def _close(self, depth: int) -> None:
        level = self._levels[depth]
        if depth == 0:
            node = encode_leaf(level.leaf_rows)
            size, chunks = sum(row.raw for row in level.leaf_rows), len(level.leaf_rows)
        else:
            node = encode_inner(level.inner_rows)
            size = sum(row.bytes_below for row in level.inner_rows)
            chunks = sum(row.chunks_below for row in level.inner_rows)
        node_id = self._store(EntryType.LEAVES if depth == 0 else EntryType.INNER_NODES, node)
        level.leaf_rows, level.inner_rows = [], []
        level.nodes_closed += 1
        if depth + 1 == len(self._levels):
            self._levels.append(_Level())
        rows = self._levels[depth + 1].inner_rows
        rows.append(InnerRow(node_id, size, chunks))
        if ends_node(node_id, len(rows)):
            self._close(depth + 1)
