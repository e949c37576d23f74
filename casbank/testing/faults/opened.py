"""What ``open`` gives while calls are watched: files whose writes go through module ``os``.

Rule: only files that are opened for writing, since CPython's own never come back to Python for a system call.
"""

import io
import os
from collections.abc import Callable
from typing import Any


class _File(io.FileIO):
    """Unbuffered; each write and each cut is a call of ``os``."""

    def write(self, data: Any, /) -> int:
        return os.write(self.fileno(), data)

    def truncate(self, size: int | None = None, /) -> int:
        length = self.tell() if size is None else size
        os.ftruncate(self.fileno(), length)
        return length


def open_recorded(real: Callable[..., Any]) -> Callable[..., Any]:
    """``open``, as ``real`` is, but for files that are to be written."""

    def opening(  # noqa: PLR0917 - as the real one has it
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[str, int], int] | None = None,
    ) -> Any:
        if not set(mode) & set("wax+"):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener or _opened)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

    return opening


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags, 0o666)
