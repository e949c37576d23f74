"""Everything below a folder, in the byte order that the paths have as names of objects.

Rule 1: no symbolic link is followed, not even one that takes a folder's place meanwhile: each folder is opened from
its parent's descriptor.
Rule 2: what cannot be looked into is named like everything else; the walk goes on.
Rule 3: a path is a str as Python's os module has it: bytes that are no UTF-8 are lone surrogates in it.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

FILE = "file"
FOLDER = "folder"
BANK = "bank"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFLNK: "symbolic link",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "FIFO",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """What is at ``path`` below the folder. ``folder`` is the descriptor of the folder that holds it, open until the
    walk goes on. ``error`` says why a folder could not be entered, or an entry's kind not be learnt."""

    path: str
    kind: str
    folder: int
    error: OSError | None = None


class _Level(NamedTuple):
    """A folder that is open, and what is left of it. ``path`` ends in a slash, or is empty."""

    path: str
    descriptor: int
    entries: Iterator["os.DirEntry[str]"]


def walk(root: Path, is_excluded: Callable[[str], bool], bank: tuple[int, int] | None) -> Iterator[Found]:
    """Files and what is none below ``root``; folders only if they cannot be entered, or are the bank.

    ``bank`` is the device and inode of a folder that is not entered. Raises OSError if ``root`` cannot be read.
    """
    levels = [_enter(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "")]
    try:
        if _identity(levels[0].descriptor) == bank:
            yield Found("", BANK, levels[0].descriptor)
            return
        while levels:
            level = levels[-1]
            entry = next(level.entries, None)
            if entry is None:
                os.close(levels.pop().descriptor)
            elif not is_excluded(path := level.path + entry.name):
                found = _look(entry, path, level.descriptor, levels, bank)
                if found is not None:
                    yield found
    finally:
        for level in levels:
            os.close(level.descriptor)


def _look(
    entry: "os.DirEntry[str]", path: str, folder: int, levels: list[_Level], bank: tuple[int, int] | None
) -> Found | None:
    """What an entry is; None for a folder that was entered."""
    try:
        if not entry.is_dir(follow_symlinks=False):
            return Found(path, _kind(entry), folder)
        descriptor = os.open(entry.name, _FOLDER_FLAGS, dir_fd=folder)
        if _identity(descriptor) == bank:
            os.close(descriptor)
            return Found(path, BANK, folder)
        levels.append(_enter(descriptor, path + "/"))
    except OSError as error:
        return Found(path, FOLDER, folder, error)
    return None


def _enter(descriptor: int, path: str) -> _Level:
    try:
        with os.scandir(descriptor) as entries:
            return _Level(path, descriptor, iter(sorted(entries, key=_order)))
    except OSError:
        os.close(descriptor)
        raise


def _order(entry: "os.DirEntry[str]") -> bytes:
    # What is in a folder "a" follows the file "a.txt", because "/" follows ".".
    return os.fsencode(entry.name) + (b"/" if entry.is_dir(follow_symlinks=False) else b"")


def _kind(entry: "os.DirEntry[str]") -> str:
    if entry.is_file(follow_symlinks=False):
        return FILE
    return _KINDS.get(stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode), "unknown kind")


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
