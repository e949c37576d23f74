"""``casbank get --recursive``: every object below a prefix, each as a file below one folder.

Rule: an object that cannot be read, or has no place there, or was written with holes, is named, and the next one is
tried; a failing disk or bank ends it all.
"""

import errno
import os
import time
from pathlib import Path

from casbank.bank import Bank
from casbank.cli.console import Console
from casbank.cli.copying import COPY_BYTES, copy
from casbank.cli.failure import reason
from casbank.cli.folder import Folder
from casbank.cli.lost import LostMap, show_map, summary
from casbank.cli.progress import Advance, progress
from casbank.cli.sizes import human_bytes, human_count
from casbank.engine.objectfile import ObjectFile
from casbank.errors import CasbankError, CorruptionError, ErrorKind, InvalidInputError, NotFoundError
from casbank.model import ObjectInfo
from casbank.storage.files import write_parts

# What is wrong with one name or its place alone; with any other answer the next file would fare no better.
_NO_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EPERM,
    }
)


def restore_tree(bank: Bank, prefix: str, root: Path, console: Console, *, allow_holes: bool = False) -> None:
    """Write every object whose name begins with ``prefix`` below ``root``, under its whole name.

    ``allow_holes``: those that lost bytes too, with zeros in their place.

    Raises NotFoundError if there is none, unless the prefix is empty; StoreError, OSError.
    """
    begun = time.monotonic()
    with Folder(root) as folder, progress(console, str(root)) as advance:
        restoring = _Restoring(bank, folder, console, advance, LostMap() if allow_holes else None)
        for info in bank.list(prefix):
            restoring.restore(info)
    if prefix and not (restoring.files or console.failures):
        raise NotFoundError("no object's name begins so", kind=ErrorKind.NO_OBJECT, prefix=prefix)
    seconds = time.monotonic() - begun
    if console.json:
        console.document(
            {
                "files": restoring.files,
                "bytes": restoring.bytes,
                "seconds": round(seconds, 3),
                "failures": console.failures,
                **(restoring.lost.document() if restoring.lost is not None else {}),
            }
        )
    console.say(f"fetched {human_count(restoring.files, 'file')}, {human_bytes(restoring.bytes)}, in {seconds:.1f} s")


class _Restoring:
    def __init__(self, bank: Bank, folder: Folder, console: Console, advance: Advance, lost: LostMap | None) -> None:
        self._bank = bank
        self._folder = folder
        self._console = console
        self._advance = advance
        # None if what lost bytes is not to be written.
        self.lost = lost
        self.files = 0
        self.bytes = 0

    def restore(self, info: ObjectInfo) -> None:
        """Write one object, or name it."""
        try:
            self.bytes += self._write(info)
            self.files += 1
        except (CorruptionError, NotFoundError, InvalidInputError) as error:
            self._console.failed(info.name, reason(error))
        except OSError as error:
            if isinstance(error, CasbankError) or error.errno not in _NO_PLACE:
                raise
            self._console.failed(info.name, error.strerror or str(error))

    def _write(self, info: ObjectInfo) -> int:
        """How many bytes it has."""
        if info.size <= COPY_BYTES:
            try:
                return self._write_small(info.name)
            except CorruptionError:
                if self.lost is None:
                    raise
        return self._write_large(info.name)

    def _write_small(self, name: str) -> int:
        data = self._bank.get(name)
        with self._folder.new_file(name) as descriptor:
            write_parts(descriptor, [data])
        self._advance(len(data))
        return len(data)

    def _write_large(self, name: str) -> int:
        with self._bank.open_object(name, allow_holes=self.lost is not None) as source:
            with (
                self._folder.new_file(name) as descriptor,
                os.fdopen(descriptor, "wb", closefd=False) as target,
            ):
                size = source.seek(0, os.SEEK_END)
                source.seek(0)
                copy(source, target, size, self._advance)
            self._tell_lost(source)
        return size

    def _tell_lost(self, source: ObjectFile) -> None:
        """Name an object that was written with holes."""
        lost = summary(source)
        if lost is not None and self.lost is not None:
            self.lost.add(source)
            show_map(self._console, source)
            self._console.failed(source.name, lost)
