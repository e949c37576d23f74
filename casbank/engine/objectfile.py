"""One version of one object as a seekable, read-only file."""

import io
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from casbank import limits
from casbank.engine.holemap import HoleMap
from casbank.format.descriptor import Descriptor
from casbank.model import Hole

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PiecesFrom = Callable[[int], Iterator[memoryview | Hole]]
"""What there is of an object from an offset on: its bytes, and what is lost of them."""

_ZEROS = memoryview(bytes(limits.HOLE_PIECE_BYTES))


class ObjectFile(io.RawIOBase):
    """Stays on the version that it opened; fetches ahead while it is read in order. For one thread."""

    def __init__(self, name: str, item: Descriptor, version: int, pieces_from: PiecesFrom) -> None:
        super().__init__()
        self.name = name
        self.version = version
        self._size = item.size
        self._pieces_from = pieces_from
        self._position = 0
        self._met = HoleMap()
        self._drop()

    def _drop(self) -> None:
        # Bytes from _position on that were fetched, and where more come from; None after a seek.
        self._rest = memoryview(b"")
        self._pieces: Iterator[memoryview | Hole] | None = None
        # Whether _rest is zeros of a hole, and how many of it follow behind them.
        self._is_hole = False
        self._hole_left = 0

    @property
    def holes(self) -> list[Hole]:
        """What was read so far and is lost, in the object's order, neighbours as one: at most ``limits.HOLES_MAX``.

        Always empty without ``allow_holes``: then what is lost is a CorruptionError.
        """
        return self._met.holes()

    @property
    def holes_omitted_bytes(self) -> int:
        """How many zeros were read for lost bytes that had no place in ``holes``; each time they were read."""
        return self._met.omitted_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if whence not in base:
            raise ValueError(f"invalid whence {whence}")
        target = base[whence] + offset
        if target < 0:
            raise ValueError(f"negative seek position {target}")
        ahead = target - self._position
        if 0 <= ahead <= len(self._rest):
            self._rest = self._rest[ahead:]
        else:
            self._drop()
        self._position = target
        return target

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer, or as much of it as there is of the object."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target) and self._more():
            count = min(len(target) - done, len(self._rest))
            target[done : done + count] = self._rest[:count]
            self._take(count)
            done += count
        return done

    def readall(self) -> bytes:
        """All that follows, with one copy of it in memory."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        whole = io.BytesIO()
        while self._more():
            whole.write(self._rest)
            self._take(len(self._rest))
        return whole.getvalue()

    def _more(self) -> bool:
        """Whether there is a byte at the position; it is in ``_rest`` then."""
        if self._position >= self._size:
            return False
        if self._pieces is None:
            self._pieces = self._pieces_from(self._position)
        try:
            while not self._rest:
                self._rest = self._next(self._pieces)
        except BaseException:
            # A generator that raised is at its end, and is not to be taken for the end of the object.
            self._pieces = None
            raise
        return True

    def _next(self, pieces: Iterator[memoryview | Hole]) -> memoryview:
        if not self._hole_left:
            piece = next(pieces)
            self._is_hole = isinstance(piece, Hole)
            if not isinstance(piece, Hole):
                return piece
            self._hole_left = piece.length
        zeros = _ZEROS[: self._hole_left]
        self._hole_left -= len(zeros)
        return zeros

    def _take(self, count: int) -> None:
        """So many bytes of ``_rest`` were read."""
        if self._is_hole:
            self._met.add(self._position, count)
        self._rest = self._rest[count:]
        self._position += count

    def close(self) -> None:
        """Let go of what was fetched ahead."""
        self._drop()
        super().close()
