"""One bit of a file is another one: what bad memory, a bad cable or an old disk leaves behind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from casbank.testing.faults.calls import matches
from casbank.testing.faults.recorder import IGNORED


class Flip(NamedTuple):
    """One bit: of the file ``path`` below the folder, bit ``bit`` (0 to 7) of the byte at ``offset``."""

    path: str
    offset: int
    bit: int

    def __str__(self) -> str:
        return f"{self.path}:{self.offset}:{self.bit}"


def flips(root: Path, *, ignored: Sequence[str] = IGNORED) -> Iterator[Flip]:
    """One for each byte of each file below ``root``, with a different bit from byte to byte."""
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root).as_posix()
        if path.is_file() and not matches(below, ignored):
            for offset in range(path.stat().st_size):
                yield Flip(below, offset, offset % 8)


@contextmanager
def flipped(root: Path, flip: Flip) -> Iterator[None]:
    """Flip the bit, and flip it back in the end if the file is there still and holds what was left in it."""
    path = root / flip.path
    before = path.read_bytes()
    changed = bytearray(before)
    changed[flip.offset] ^= 1 << flip.bit
    _put(path, bytes(changed))
    try:
        yield
    finally:
        if path.is_file() and path.read_bytes() == changed:
            _put(path, before)


def _put(path: Path, content: bytes) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(mode)
