"""A folder that is being filled with files whose names nobody vouches for.

Rule 1: nothing is written outside it, whatever the names are and whatever lies in it: each step of a path is opened
from its parent's descriptor, and no symbolic link is followed.
Rule 2: a file appears whole or not at all: it is written beside its place and renamed. It is not synced: a power cut
may lose it, a killed process cannot spoil it.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from casbank.cli.whole_file import temporary_name
from casbank.errors import ErrorKind, InvalidInputError

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER = frozenset({errno.ENOTDIR, errno.ELOOP})


class Folder:
    """Made if need be, with its parents. A context manager; for one thread."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # The folders that lead to the last file: names come sorted, so the next one is mostly a neighbour.
        self._open: list[tuple[bytes, int]] = []
        self._temporary = temporary_name().encode()

    def __enter__(self) -> "Folder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(0)
        os.close(self._root)

    @contextmanager
    def new_file(self, name: str) -> Iterator[int]:
        """A descriptor to write to; when the context ends well the file is at ``name``, whose slashes are folders.

        Raises InvalidInputError (kind NAME) for a name that no file here can have, OSError.
        """
        *parents, last = _parts(name)
        folder = self._enter(parents)
        try:
            # Within the try, because an interrupt may come as soon as it is made.
            descriptor = os.open(self._temporary, _FILE_FLAGS, 0o666, dir_fd=folder)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            os.rename(self._temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=folder)
            raise

    def _enter(self, parents: list[bytes]) -> int:
        """The descriptor of the folder that is reached so."""
        depth = 0
        for known, wanted in zip(self._open, parents, strict=False):
            if known[0] != wanted:
                break
            depth += 1
        self._leave(depth)
        for part in parents[depth:]:
            self._open.append((part, _open_folder(part, self._deepest)))
        return self._deepest

    def _leave(self, depth: int) -> None:
        while len(self._open) > depth:
            os.close(self._open.pop()[1])

    @property
    def _deepest(self) -> int:
        return self._open[-1][1] if self._open else self._root


def _parts(name: str) -> list[bytes]:
    if name.startswith("/"):
        raise InvalidInputError("refused, it is an absolute path", kind=ErrorKind.NAME)
    parts = name.encode().split(b"/")
    for part in parts:
        if part in (b"", b".", b".."):
            raise InvalidInputError(f"refused, a part of it is {part.decode()!r}", kind=ErrorKind.NAME)
    return parts


def _open_folder(part: bytes, parent: int) -> int:
    try:
        try:
            return os.open(part, _FOLDER_FLAGS, dir_fd=parent)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=parent)
            return os.open(part, _FOLDER_FLAGS, dir_fd=parent)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            shown = part.decode(errors="replace")
            raise InvalidInputError(
                f"refused, {shown!r} on its way is a file or a symbolic link, not a folder", kind=ErrorKind.NAME
            ) from error
        raise
