"""From an object to a file, with as much memory for a terabyte as for a mebibyte."""

from typing import IO

from casbank import limits
from casbank.cli.progress import Advance
from casbank.engine.objectfile import ObjectFile

COPY_BYTES = 1 * limits.MIB


def copy(source: ObjectFile, target: IO[bytes], length: int, advance: Advance) -> None:
    """Write ``length`` bytes from where ``source`` stands, which it has."""
    buffer = memoryview(bytearray(COPY_BYTES))
    while length:
        count = source.readinto(buffer[: min(length, COPY_BYTES)])
        target.write(buffer[:count])
        length -= count
        advance(count)
