"""What lies in files and folders: how much, which bytes, and in the page cache.

Sizes are of regular files alone, in bytes, and never more than what they take on the disk: a sparse file counts for
what it holds.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

READ_BYTES = 2**20


def regular_files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, names, files in os.walk(path):
        names.sort()
        for name in sorted(files):
            found = Path(folder, name)
            if not found.is_symlink():
                yield found


def stored_bytes(path: Path) -> int:
    total = 0
    for file in regular_files(path):
        status = file.stat()
        total += min(status.st_size, status.st_blocks * 512)
    return total


def logical_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in regular_files(path))


def fingerprint(path: Path) -> str:
    """One hash of every name and content: of a folder's files below it, of a file as if it lay in a folder.

    One hash and no table of them, as this process must stay small (see child.py).
    """
    total = hashlib.sha256()
    base = path.parent if path.is_file() else path
    for found in regular_files(path):
        with found.open("rb") as file:
            total.update(f"{found.relative_to(base)}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def warm(path: Path) -> None:
    """Read everything once, so that the page cache serves all stores alike."""
    buffer = bytearray(READ_BYTES)
    for file in regular_files(path):
        with file.open("rb", buffering=0) as source:
            while source.readinto(buffer):
                pass
