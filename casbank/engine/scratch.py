"""Temporary files and folders: for what is sorted, merged or copied on the way.

Rule: what the disk does to them leaves as StoreError, whoever uses them.
"""

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from casbank.errors import StoreError
from casbank.storage.files import translate


class ScratchFile:
    """A file without a name, written and read at one position. To be closed, and gone then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close
        except OSError as error:
            raise self._translated(error) from error

    def __enter__(self) -> "ScratchFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._translated(error) from error

    def seek(self, offset: int) -> None:
        """Go on at ``offset``."""
        try:
            self._file.seek(offset)
        except OSError as error:
            raise self._translated(error) from error

    def read(self, length: int) -> bytes:
        """So many bytes; fewer at the end only."""
        try:
            return self._file.read(length)
        except OSError as error:
            raise self._translated(error) from error

    def view(self) -> memoryview:
        """All that was written, as a map, which stays until nobody refers to it: an error that is on its way may do so,
        and as long as it does the map could not be closed."""
        try:
            self._file.flush()
            return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        # What is left in its buffer is of no use, so nor is an error that it cannot be written.
        with suppress(OSError):
            self._file.close()

    def _translated(self, error: OSError) -> StoreError:
        return translate(error, "a temporary file cannot be used", path=self._folder)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder where the system keeps temporary files; removed in the end, as far as that is possible."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="casbank-", ignore_cleanup_errors=True)
    except OSError as error:
        raise translate(error, "no temporary folder can be made") from error
    with folder as path:
        yield Path(path)
