"""One version of one object as a seekable, read-only file."""

import io
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from casbank.format.descriptor import Descriptor

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PiecesFrom = Callable[[int], Iterator[memoryview]]


class ObjectFile(io.RawIOBase):
    """Stays on the version that it opened; fetches ahead while it is read in order. For one thread."""

    def __init__(self, name: str, item: Descriptor, version: int, pieces_from: PiecesFrom) -> None:
        super().__init__()
        self.name = name
        self.version = version
        self._size = item.size
        self._pieces_from = pieces_from
        self._position = 0
        # Bytes from _position on that were fetched, and where more come from; None after a seek.
        self._rest = memoryview(b"")
        self._pieces: Iterator[memoryview] | None = None

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
            self._rest, self._pieces = memoryview(b""), None
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
            self._rest = self._rest[count:]
            self._position += count
            done += count
        return done

    def readall(self) -> bytes:
        """All that follows, with one copy of it in memory."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        whole = io.BytesIO()
        while self._more():
            whole.write(self._rest)
            self._position += len(self._rest)
            self._rest = memoryview(b"")
        return whole.getvalue()

    def _more(self) -> bool:
        """Whether there is a byte at the position; it is in ``_rest`` then."""
        if self._position >= self._size:
            return False
        if self._pieces is None:
            self._pieces = self._pieces_from(self._position)
        try:
            while not self._rest:
                self._rest = next(self._pieces)
        except BaseException:
            # A generator that raised is at its end, and is not to be taken for the end of the object.
            self._pieces = None
            raise
        return True

    def close(self) -> None:
        """Let go of what was fetched ahead."""
        self._rest, self._pieces = memoryview(b""), None
        super().close()
