"""Targets for the index: rows of its tables, and the marker that says whether it can be believed.

The index is not a format that others write: its checksums find damage, and what stands behind a right one was written
by casbank. So damaged values are refused with our own error, and rows that casbank could write come back. A body that
was forged behind a right checksum need only end, in little memory; no particular error is asked for.
"""

import atexit
import shutil
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from casbank.errors import CasbankError, CorruptionError
from casbank.index import tables
from casbank.index.marker import Marker
from casbank.index.tables import LeaseRow, NameRow, PackRow, PinRow, State, SweptRow, Tombstone
from casbank.limits import GROUP_CHUNKS_MAX
from casbank.model import EntryRow, Location, PackInfo
from fuzz.asked import decoded

_KEY_BYTES = 32
_FORGED = (CasbankError, struct.error, TypeError, ValueError)


class _Fields:
    """Hands out fields of a row from fuzzed bytes; zeros when they end."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def take(self, length: int) -> bytes:
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken.ljust(length, b"\0")

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length))

    def piece(self) -> bytes:
        """Up to 255 bytes of any length."""
        return self.take(self.number(1))

    def key(self) -> bytes:
        """LMDB has no empty keys."""
        return self.piece() or b"key"

    def text(self) -> str:
        return self.piece().decode(errors="replace")


class _Table(NamedTuple):
    """One kind of row: its decoder, and a row that fields make with its key and value."""

    decode: Callable[[bytes, bytes], object]
    make: Callable[[_Fields], tuple[object, bytes, bytes]]


def _location(of: _Fields) -> tuple[object, bytes, bytes]:
    key = of.take(_KEY_BYTES)
    row = EntryRow(of.number(1), of.number(1), of.number(4), of.number(4), of.number(2) % (GROUP_CHUNKS_MAX + 1))
    where = Location(of.number(4), of.number(4), of.number(4), row, of.number(4), of.number(4), of.number(4))
    return where, key, tables.encode_location(key, where)


def _pack(of: _Fields) -> tuple[object, bytes, bytes]:
    number = of.number(4)
    info = PackInfo(of.take(16), of.number(1), of.number(8), of.take(32), of.number(4), of.number(8))
    row = PackRow(info, of.number(4), of.take(128))
    return row, tables.number_key(number), tables.encode_pack(number, row)


def _state(of: _Fields) -> tuple[object, bytes, bytes]:
    key = of.key()
    state = State(of.number(8), of.take(32), of.number(4), *[of.number(8) for _ in range(5)])
    return state, key, tables.encode_state(key, state)


def _bucket(of: _Fields) -> tuple[object, bytes, bytes]:
    key = of.key()
    rows = [NameRow(of.piece(), of.number(8), of.piece()) for _ in range(of.number(1) % 8)]
    return rows, key, tables.encode_bucket(key, rows)


def _tombstone(of: _Fields) -> tuple[object, bytes, bytes]:
    stone = Tombstone(of.number(8), of.number(4), of.piece(), of.number(8), of.piece(), of.number(8))
    return stone, tables.tombstone_key(stone.removed_seq, stone.ordinal), tables.encode_tombstone(stone)


def _lease(of: _Fields) -> tuple[object, bytes, bytes]:
    row = LeaseRow(of.take(16), of.number(8), of.number(8), of.number(8), of.text(), of.text(), of.text())
    return row, row.id, tables.encode_lease(row)


def _pin(of: _Fields) -> tuple[object, bytes, bytes]:
    row = PinRow(of.take(16), of.number(8), of.text() if of.number(1) & 1 else of.take(16))
    return row, tables.pin_key(row), tables.encode_pin(row)


def _swept(of: _Fields) -> tuple[object, bytes, bytes]:
    row = SweptRow(of.take(16), of.number(8), of.number(8), of.number(8), of.number(1) % 2 == 1)
    return row, row.id, tables.encode_swept(row)


_TABLES = (
    _Table(tables.decode_location, _location),
    _Table(lambda key, value: tables.decode_pack(int.from_bytes(key[:4]), value), _pack),
    _Table(tables.decode_state, _state),
    _Table(tables.decode_bucket, _bucket),
    _Table(tables.decode_tombstone, _tombstone),
    _Table(tables.decode_lease, _lease),
    _Table(tables.decode_pin, _pin),
    _Table(tables.decode_swept, _swept),
)


def index_rows(data: bytes) -> None:
    """A row comes back; with one bit changed it is refused; any bytes, rightly sealed or not, end in little memory."""
    if len(data) < 3:
        return
    table, damage, rest = _TABLES[data[0] % len(_TABLES)], int.from_bytes(data[1:3]), data[3:]
    row, key, value = table.make(_Fields(rest))
    assert table.decode(key, value) == row
    at = damage % (8 * len(value))
    damaged = bytearray(value)
    damaged[at // 8] ^= 1 << at % 8
    assert decoded(lambda whole: table.decode(key, whole), bytes(damaged), (CorruptionError,)) is None
    for forged in (rest, tables.sealed(key, rest)):
        decoded(lambda whole: table.decode(key, whole), forged, _FORGED)


def marker(data: bytes) -> None:
    """Whatever a crash left of the marker, it says yes or no."""
    folder, known = _marker()
    (folder / "marker").write_bytes(data)
    for said in (known.survived(), known.clean()):
        assert type(said) is bool


@cache
def _marker() -> tuple[Path, Marker]:
    folder = Path(tempfile.mkdtemp(prefix="casbank-fuzz-"))
    known = Marker(folder)

    def leave() -> None:
        known.close()
        shutil.rmtree(folder)

    atexit.register(leave)
    return folder, known
