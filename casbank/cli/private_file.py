"""A new file that nobody else may read.

Rule: it takes nothing's place, not even a symbolic link's that leads nowhere, and it is durable or gone. It is written
in its place: a link(2) to it would need more than the FAT of a USB stick has.
"""

import os
from contextlib import suppress
from pathlib import Path

from casbank.errors import AlreadyExistsError
from casbank.storage.files import fsync_file, fsync_folder, write_parts


def write_private_file(path: Path, data: bytes) -> None:
    """Raises AlreadyExistsError, OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AlreadyExistsError("a file of this name exists; nothing was written", file=path) from None
    try:
        write_parts(descriptor, [data])
        fsync_file(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)
    fsync_folder(path.parent)
