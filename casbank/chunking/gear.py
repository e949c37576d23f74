"""Content-defined cuts by the gear hash, normalised (FastCDC).

Rule 1: whether a chunk may end at a byte is a function of the 64 bytes that end there, and of the length so far only
through which mask applies. So an edit moves the cuts near it and no others.
Rule 2: the compiled kernel and its pure-Python twin cut alike; without the kernel casbank is slow, never different.
Rule 3: a secret table keeps the cuts from telling one bank's contents to another's reader. It does not hide cut
points from an attacker who knows the plaintext (IACR ePrint 2025/532, 2025/558).

Gear hash: Xia et al., "Ddelta: a deduplication-inspired fast delta compression approach", Performance Evaluation 79
(2014). Normalised chunking: Xia et al., "FastCDC", USENIX ATC 2016, and "The design of fast content-defined chunking
for data deduplication based storage systems", IEEE TPDS 31 (2020).
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from blake3 import blake3

from casbank.errors import InvalidInputError

KERNEL: Literal["native", "python"]
"""Which implementation cuts in this process."""

try:
    from casbank.chunking._kernel import cut as _cut

    KERNEL = "native"
except ImportError:
    from casbank.chunking._twin import cut as _cut

    KERNEL = "python"

if TYPE_CHECKING:  # profile.py makes the chunker, so here it can only be named
    from casbank.chunking.profile import Profile
    from casbank.model import Buffer

TABLE_BYTES: Final = 256 * 8
PUBLIC_SECRET: Final = b"casbank v1 public gear table"
"""The secret of banks that have none: they all cut alike, so they can share chunks."""

# Level 2 of the FastCDC papers: sizes gather around the average, at a deduplication as good as without.
_NORMALISATION_BITS = 2


def gear_table(secret: bytes) -> bytes:
    """The gear table of a dedup secret: 2,048 bytes, 256 little-endian unsigned integers of 64 bits."""
    return blake3(secret, derive_key_context="casbank v1 gear table").digest(length=TABLE_BYTES)


class GearChunker:
    """Chunks that end where the gear hash of the last 64 bytes begins with enough zero bits.

    ``table`` is what :func:`gear_table` returned. Raises InvalidInputError for a table of another length, or a
    profile that is not of kind ``gear``. The first one made in a process without the compiled kernel warns
    (RuntimeWarning).
    """

    __slots__ = ("_masks", "_sizes", "_table", "profile")

    def __init__(self, profile: Profile, table: bytes) -> None:
        if profile.kind != "gear":
            raise InvalidInputError(f"not a gear profile: {profile.text}")
        if len(table) != TABLE_BYTES:
            raise InvalidInputError(f"a gear table has {TABLE_BYTES} bytes, not {len(table)}")
        if KERNEL == "python":
            _warn_of_missing_kernel()
        bits = profile.average_bytes.bit_length() - 1
        self.profile: Final = profile
        self._table = table
        self._sizes = (profile.min_bytes, profile.average_bytes, profile.max_bytes)
        self._masks = (_top_bits(bits + _NORMALISATION_BITS), _top_bits(bits - _NORMALISATION_BITS))

    def cut(self, data: Buffer, *, final: bool) -> list[int]:
        """See :meth:`casbank.chunking.Chunker.cut`. The compiled kernel releases the GIL."""
        return _cut(data, self._table, self._sizes, self._masks, final)


def _top_bits(count: int) -> int:
    # The top ones, because bit k of the hash knows only the last k + 1 bytes.
    return ((1 << count) - 1) << (64 - count)


@cache
def _warn_of_missing_kernel() -> None:
    warnings.warn(
        "casbank was installed without its compiled chunking kernel and cuts some hundred times slower; "
        "install a C compiler and reinstall casbank",
        RuntimeWarning,
        stacklevel=3,
    )
