"""A deterministic endless stream for memory tests: made, and checked again, faster than a store can take it.

    python benchmarks/stream.py feed BYTES | ... | python benchmarks/stream.py check BYTES

It repeats one segment of 64 MiB: a quarter is always the same (duplicates), the rest changes in 8 bytes of every
16 KiB (so nearly all of its chunks are new); of that rest a quarter is text, which compresses. `check` fails, with
exit code 1, at the first MiB that differs, and on a stream that is too short or too long.
"""

import random
import sys
from collections.abc import Iterator
from typing import BinaryIO

MIB = 2**20
PIECE_BYTES = MIB
STAMP_EVERY_BYTES = 16 * 2**10
SEGMENT_BYTES = 64 * MIB
DUPLICATE_BYTES = 16 * MIB
TEXT_BYTES = 12 * MIB


def segments(size: int) -> Iterator[memoryview]:
    """Segments that add up to `size` bytes; each is valid until the next is asked for."""
    rng = random.Random("casbank stream")
    # One MiB of text, again and again: the stamps make its chunks new, and making more would delay the first byte.
    text = b"".join(b"%08x key=%d\n" % (rng.getrandbits(32), number) for number in range(60_000))[:MIB]
    segment = bytearray(rng.randbytes(SEGMENT_BYTES - TEXT_BYTES) + text * (TEXT_BYTES // MIB))
    for number, done in enumerate(range(0, size, SEGMENT_BYTES)):
        stamp = number.to_bytes(8, "little")
        for at in range(DUPLICATE_BYTES, SEGMENT_BYTES, STAMP_EVERY_BYTES):
            segment[at : at + 8] = stamp
        yield memoryview(segment)[: size - done]


def feed(size: int, out: BinaryIO) -> None:
    for segment in segments(size):
        for at in range(0, len(segment), PIECE_BYTES):
            out.write(segment[at : at + PIECE_BYTES])


def is_equal(size: int, source: BinaryIO) -> bool:
    """Whether the source has exactly what `feed` writes."""
    for segment in segments(size):
        for at in range(0, len(segment), PIECE_BYTES):
            expected = segment[at : at + PIECE_BYTES]
            # bytes compare by memcmp; two views would be compared item by item.
            if source.read(len(expected)) != bytes(expected):
                return False
    return not source.read(1)


def main() -> int:
    verb, size = sys.argv[1], int(sys.argv[2])
    if verb == "feed":
        feed(size, sys.stdout.buffer)
        return 0
    return 0 if is_equal(size, sys.stdin.buffer) else 1


if __name__ == "__main__":
    sys.exit(main())
