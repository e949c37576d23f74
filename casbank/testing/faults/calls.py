"""The calls of module ``os`` that touch files below one folder, each handed to somebody before it is made.

Rule 1: only paths and descriptors below the folder are seen, and of these only what no ``ignored`` pattern names. A
descriptor is known by the file behind it, so it does not matter who opened it, or how often it was duplicated.
Rule 2: one lock gives the calls of all threads one order: a call is made while it is held.
Rule 3: what does not go through ``os`` is not seen: LMDB's map, a subprocess, ``fcntl``. ``open`` for writing does, in
here (``opened.py``). Who relies on having seen all compares in the end (``recorder.py`` does).
Patterns are those of ``fnmatch``, for paths with slashes below the folder; one that matches a folder matches all in it.
"""

import builtins
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

from casbank.testing.faults.opened import open_recorded

Identity: TypeAlias = tuple[int, int]
"""Device and inode."""

ON_PATHS = ("open", "mkdir", "rmdir", "unlink", "remove", "truncate", "scandir", "listdir")
ON_PAIRS = ("link", "rename", "replace")
ON_FILES = (
    "write", "writev", "pwrite", "pwritev", "ftruncate", "posix_fallocate", "fsync", "fdatasync",
    "read", "readv", "pread", "preadv", "close",
)  # fmt: skip
_TMPFILE = getattr(os, "O_TMPFILE", 0)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: ``path`` is what it is about, ``other`` the new name of a link or rename; both below the folder."""

    name: str
    path: str
    other: str | None
    arguments: tuple[Any, ...]
    identity: Identity | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.path or '.'}" + (f" -> {self.other}" if self.other is not None else "")


Handler: TypeAlias = Callable[[Call, Callable[..., Any]], Any]
"""Gets a call and the real function; what it returns or raises is what the caller gets."""


@contextmanager
def interposed(root: Path, handler: Handler, ignored: Sequence[str] = ()) -> Iterator[None]:
    """Hand every call that concerns ``root`` to ``handler``, in all threads of this process."""
    watch = _Watch(root, handler, ignored)
    with ExitStack() as undo:
        for name in (*ON_PATHS, *ON_PAIRS, *ON_FILES):
            if hasattr(os, name):
                _replace(undo, os, name, watch.wrapped(name, getattr(os, name)))
        opening = open_recorded(builtins.open)
        _replace(undo, builtins, "open", opening)
        _replace(undo, io, "open", opening)
        yield


def is_nameless(flags: int) -> bool:
    """Whether an ``open`` with these flags makes a file without a name."""
    return bool(_TMPFILE) and flags & _TMPFILE == _TMPFILE


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names this path or a folder above it."""
    return any(fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*") for pattern in patterns)


def identity_of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _replace(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


class _Watch:
    """Tells which calls concern the folder, and keeps track of what its files are called."""

    def __init__(self, root: Path, handler: Handler, ignored: Sequence[str]) -> None:
        real = root.resolve()
        # Not resolved path by path: a call may be about a link itself.
        self._roots = {str(root.absolute()), str(real)}
        self._handler = handler
        self._ignored = ignored
        self._lock = threading.RLock()
        self._inside = threading.local()
        self._known: dict[Identity, str] = {}
        self._root = real
        self._know(real, "")

    def _know(self, real: Path, path: str) -> None:
        self._known[identity_of(real.lstat())] = path
        for child in real.iterdir() if real.is_dir() and not real.is_symlink() else ():
            below = f"{path}/{child.name}" if path else child.name
            if not matches(below, self._ignored):
                self._know(child, below)

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if getattr(self._inside, "yes", False):
                return real(*arguments, **options)
            described = self._describe(name, arguments, options)
            if described is None:
                return real(*arguments, **options)
            with self._lock, self._alone():
                return self._made(described, lambda *changed: real(*(changed or arguments), **options))

        return call

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What a handler calls concerns nobody."""
        self._inside.yes = True
        try:
            yield
        finally:
            self._inside.yes = False

    def _describe(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Call | None:
        values = (*arguments, *(value for key, value in options.items() if not key.endswith("dir_fd")))
        if name in ON_FILES:
            return self._of_descriptor(name, values)
        if name in ON_PAIRS:
            path = self._below(values[0], options.get("src_dir_fd"))
            other = self._below(values[1], options.get("dst_dir_fd"))
            if (path is None) is not (other is None):
                raise AssertionError(f"{name} across the border of what is watched: {values[0]} -> {values[1]}")
            return None if path is None else Call(name, path, other, values)
        subject = values[0] if values else os.curdir
        if isinstance(subject, int):
            return self._of_descriptor(name, values)
        path = self._below(subject, options.get("dir_fd"))
        return None if path is None else Call(name, path, None, values)

    def _of_descriptor(self, name: str, values: tuple[Any, ...]) -> Call | None:
        try:
            identity = identity_of(os.fstat(values[0]))
        except OSError:
            return None
        path = self._known.get(identity)
        return None if path is None else Call(name, path, None, values, identity)

    def _below(self, path: Any, folder: int | None) -> str | None:
        """The path below the folder; None for what is elsewhere, or ignored."""
        given = Path(os.fsdecode(path))
        if folder is None or given.is_absolute():
            below = self._below_root(os.path.normpath(given.absolute()))
        else:
            above = self._known.get(identity_of(os.fstat(folder)))
            below = None if above is None else os.path.normpath(Path(above) / given)
        if below is None or matches(below, self._ignored):
            return None
        return "" if below == os.curdir else below

    def _below_root(self, absolute: str) -> str | None:
        for root in self._roots:
            if absolute == root:
                return ""
            if absolute.startswith(root + os.sep):
                return absolute[len(root) + 1 :]
        return None

    def _made(self, call: Call, run: Callable[..., Any]) -> Any:
        before, replaced = self._of_name(call.path), self._of_name(call.other)
        result = self._handler(call, run)
        if call.name == "open" and not is_nameless(call.arguments[1]):
            self._known[identity_of(os.fstat(result))] = call.path
        elif call.name == "mkdir" and (made := self._of_name(call.path)) is not None:
            self._known[identity_of(made)] = call.path
        elif call.name in ("unlink", "remove", "rmdir"):
            self._forget(before)
        elif call.name in ("rename", "replace") and before is not None:
            self._forget(replaced)
            self._move(call.path, str(call.other))
            self._known[identity_of(before)] = str(call.other)
        return result

    def _of_name(self, path: str | None) -> os.stat_result | None:
        if path is not None:
            with suppress(OSError):
                return (self._root / path).lstat()
        return None

    def _forget(self, status: os.stat_result | None) -> None:
        """A file without a name concerns nobody, and its inode's number will be given to another one."""
        if status is not None and (status.st_nlink <= 1 or stat.S_ISDIR(status.st_mode)):
            self._known.pop(identity_of(status), None)

    def _move(self, path: str, other: str) -> None:
        for identity, known in self._known.items():
            if known.startswith(path + "/"):
                self._known[identity] = other + known[len(path) :]
