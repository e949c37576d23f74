"""A file that is being read into a bank: tells how far it is, and whether it held still.

Rule 1: a regular file that changed while it was read raises ConflictError at its end, so that nothing of it is stored.
Rule 2: what fails here is an OSError as the system gave it, never a StoreError: who stores many files must be able to
tell a bad file from a bad bank.
"""

import io
import os
import stat
from typing import TYPE_CHECKING

from casbank.cli.progress import Advance, untold
from casbank.errors import ConflictError, ErrorKind

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class WatchedFile(io.RawIOBase):
    """Takes over a descriptor and its closing. A pipe or a device is read to its end, and always changes.

    ``advance`` is told what was read; ``size`` is None for what is no regular file.
    """

    def __init__(self, descriptor: int, advance: Advance = untold) -> None:
        self.advance = advance
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self._modified_ns = status.st_mtime_ns
        # A regular file that held still ends where it said; one of size 0 (as those of /proc) has to be asked.
        self._left = self.size or None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        count = 0 if self._left == 0 else os.readv(self._descriptor, [buffer])
        if count == 0 and self.size is not None:
            self._check_unchanged()
        if self._left is not None:
            self._left = max(0, self._left - count)
        self.advance(count)
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)

    def _check_unchanged(self) -> None:
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified_ns):
            raise ConflictError("the file changed while it was read", kind=ErrorKind.SOURCE_CHANGED)
