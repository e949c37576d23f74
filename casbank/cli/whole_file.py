"""A file that appears whole or not at all.

Rule 1: it is written beside its place under another name, synced, and renamed; then the folder is synced.
Rule 2: what is there and is no regular file (a device, a FIFO) is written into: a rename would take its place.
A process that is killed leaves what was there before, and at worst a temporary file ".casbank-*.tmp".
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from casbank.storage.files import fsync_file, fsync_folder


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write; when the context ends well it is durable and in the place of ``path``, else it is gone.

    A symbolic link stays; what it points to is replaced. Raises OSError.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        mode = 0o666
    else:
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            with path.open("wb") as stream:
                yield stream
            return
    # strict=False: the file a link points to may be about to be made.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(temporary_name())
    try:
        # Within the try, because an interrupt may come as soon as it is made. Never open to more people than what it
        # replaces.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            fsync_file(descriptor)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(target.parent)


def temporary_name() -> str:
    """A name that no other file has."""
    return f".casbank-{os.urandom(8).hex()}.tmp"
