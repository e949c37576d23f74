"""Small files that end in the BLAKE3-256 of all before: BANK, key slots, keyrings.

Rule 1: where one bit was flipped, trying each says which; the hash is the proof. Such a file may have no second copy.
Rule 2: whoever can write the store can leave any number of files: only what looks like the file that it should be is
worth the tries, and they are bounded for all files together.
"""

from blake3 import blake3

from casbank import limits
from casbank.format.header import HEADER_BYTES, MAGIC, Kind

_HASH_BYTES = 32
_KIND_AT = 10
# What a try costs beside the bytes that are hashed, in such bytes.
_TRY_BYTES = 1024


def is_whole(data: bytes) -> bool:
    """Whether the file ends in its hash."""
    return len(data) > _HASH_BYTES and blake3(data[:-_HASH_BYTES]).digest() == data[-_HASH_BYTES:]


class Mender:
    """Mends the files of one run, as long as the tries last."""

    def __init__(self, hashed_bytes_max: int = limits.MEND_HASHED_BYTES_MAX) -> None:
        self._left = hashed_bytes_max

    def mended(self, data: bytes, kind: Kind) -> bytes | None:
        """The file, which is not whole, as it was before one of its bits was flipped; None if that is not what
        happened to it, or if finding out would take too long."""
        if not _looks_like(data, kind):
            return None
        body, stored = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
        found = blake3(body).digest()
        if _bits_apart(found, stored) == 1:
            return body + found
        tries_bytes = 8 * len(body) * (len(body) + _TRY_BYTES)
        if len(data) > limits.MEND_BYTES_MAX or tries_bytes > self._left:
            return None
        self._left -= tries_bytes
        return _tried(body, stored)


def _looks_like(data: bytes, kind: Kind) -> bool:
    """Whether the header begins as it should, but for one bit at most: a second one could not be mended."""
    if len(data) <= HEADER_BYTES + _HASH_BYTES:
        return False
    return _bits_apart(data[: len(MAGIC)], MAGIC) + (data[_KIND_AT] ^ kind).bit_count() <= 1


def _bits_apart(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def _tried(body: bytes, stored: bytes) -> bytes | None:
    trial = bytearray(body)
    for bit in range(8 * len(body)):
        trial[bit >> 3] ^= 1 << (bit & 7)
        if blake3(trial).digest() == stored:
            return bytes(trial) + stored
        trial[bit >> 3] ^= 1 << (bit & 7)
    return None
