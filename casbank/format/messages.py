"""Strict msgpack: arrays whose first element is their version (format, introduction).

Rule 1: lists are bounded before msgpack allocates them; it trusts the length that an array's first bytes claim.
Rule 2: what is written keeps those bounds, or it could never be read again.
"""

from typing import Any

import msgpack

from casbank.errors import CasbankError, CorruptionError, ErrorKind, UnsupportedFormatError
from casbank.model import Buffer

# A row of anything we store has fewer elements; nesting multiplies what a hostile length can make msgpack allocate.
ARRAY_LENGTH_MAX = 4096
# Items of one element of a stream, all its lists together. 4 MiB of empty lists would otherwise become 300 MiB of
# objects. The largest honest element is a PACKS operation: 4096 rows of six fields.
ELEMENT_ITEMS_MAX = 2**16
# Items of all rows of a list together, for the same reason. A checkpoint's block, 1 MiB as it is written, has rows of
# some 60 bytes and seven items at the least.
ROWS_ITEMS_MAX = 2**19
_MALFORMED = (ValueError, TypeError, RecursionError, msgpack.UnpackException)


def encode(value: object) -> bytes:
    """msgpack bytes of a value; str is str, bytes is bin."""
    return msgpack.packb(value, use_bin_type=True)


def decode(data: Buffer, what: str, kind: ErrorKind) -> list[Any]:
    """The array in ``data``; CorruptionError of ``kind`` if it is anything else, or if bytes follow it."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, max_array_len=min(len(data), ARRAY_LENGTH_MAX))
    except _MALFORMED as error:
        raise CorruptionError(f"{what} is not well formed", kind=kind) from error
    if not isinstance(value, list) or not value:
        raise CorruptionError(f"{what} is not a list", kind=kind)
    return value


class _Items:
    """Counts what one element holds. Apart from Stream, so that no cycle of references keeps the bytes alive."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0

    def add(self, value: list[Any]) -> list[Any]:
        """msgpack calls this with each list that ends."""
        self.total += 1 + len(value)
        if self.total > ELEMENT_ITEMS_MAX:
            raise ValueError("an element has too many items")
        return value


class Stream:
    """Takes the elements of one long array one by one: a list of rows may be longer than ``ARRAY_LENGTH_MAX``.

    Every fault, and ``ValueError`` or ``TypeError`` raised inside the ``with`` block, leaves it as CorruptionError.
    """

    def __init__(self, data: Buffer, what: str, kind: ErrorKind) -> None:
        self._what = what
        self._kind = kind
        self._length = len(data)
        self._items = _Items()
        self._row_items = 0
        self._unpacker = msgpack.Unpacker(
            raw=False,
            list_hook=self._items.add,
            max_array_len=ARRAY_LENGTH_MAX,
            max_map_len=0,
            max_ext_len=0,
            max_buffer_size=max(1, len(data)),
        )
        self._unpacker.feed(data)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, _MALFORMED):
            if not isinstance(error, CasbankError):
                raise CorruptionError(f"{self._what} is not well formed", kind=self._kind) from error
        elif error is None and self._unpacker.tell() != self._length:
            raise CorruptionError(f"bytes follow the {self._what}", kind=self._kind)

    def array(self) -> int:
        """Number of elements of the array that begins here; take each with :meth:`element`."""
        count: int = self._unpacker.read_array_header()
        return count

    def element(self) -> Any:
        """The next element, whole."""
        self._items.total = 0
        return self._unpacker.unpack()

    def row(self) -> list[Any]:
        """The next element, which must be a list."""
        value = self.element()
        if type(value) is not list:
            raise ValueError("a row is no list")
        self._row_items += self._items.total
        if self._row_items > ROWS_ITEMS_MAX:
            raise ValueError("the rows have too many items")
        return value


def decode_rows(data: Buffer, what: str, kind: ErrorKind) -> tuple[Any, list[list[Any]]]:
    """Head and rows of the array ``[head, row, row, ...]``; each row is a list."""
    with Stream(data, what, kind) as stream:
        count = stream.array()
        head = stream.element()
        return head, [stream.row() for _ in range(count - 1)]


def check_version(value: object, known: int, what: str) -> None:
    """UnsupportedFormatError unless a structure's version is the known one."""
    # true and 1.0 equal 1, and are no version.
    if type(value) is not int or value != known:
        raise UnsupportedFormatError(f"{what} has version {value!r}; this casbank knows {known}")
