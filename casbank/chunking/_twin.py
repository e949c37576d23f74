"""The compiled kernel in pure Python: the same cuts, some hundred times slower.

Its form follows _kernel.c function by function, so that the two can be read side by side. It is the reference: where
they differ, the kernel is wrong.
"""

import struct

from casbank.model import Buffer

_GEAR = struct.Struct("<256Q")
_WINDOW_BYTES = 64
_U64 = 2**64 - 1


def cut(data: Buffer, table: bytes, sizes: tuple[int, int, int], masks: tuple[int, int], final: bool, /) -> list[int]:
    """Lengths in bytes of the chunks at the start of ``data``; see :meth:`casbank.chunking.Chunker.cut`.

    ``table`` is a gear table, ``sizes`` the minimum, average and maximum length, and ``masks`` the strict one, for
    lengths below the average, and the loose one, for the rest.
    """
    gear = _GEAR.unpack(table)
    minimum, average, maximum = sizes
    view = memoryview(data)
    lengths: list[int] = []
    start = 0
    while start < len(view):
        piece = view[start : start + maximum]
        length = _first_cut(piece, gear, (minimum, average), masks)
        if not length and (final or len(piece) == maximum):
            length = len(piece)
        if not length:
            break
        lengths.append(length)
        start += length
    return lengths


def _first_cut(piece: memoryview, gear: tuple[int, ...], sizes: tuple[int, int], masks: tuple[int, int]) -> int:
    """Length up to the first cut that the content asks for, or 0."""
    minimum, average = sizes
    strict_mask, loose_mask = masks
    if len(piece) < minimum:
        return 0
    # Bytes before these have left the 64 bits of the hash by the first test.
    value = 0
    for byte in piece[minimum - _WINDOW_BYTES : minimum - 1]:
        value = ((value << 1) + gear[byte]) & _U64
    for length, byte in enumerate(piece[minimum - 1 : average - 1], minimum):
        value = ((value << 1) + gear[byte]) & _U64
        if not value & strict_mask:
            return length
    for length, byte in enumerate(piece[average - 1 :], average):
        value = ((value << 1) + gear[byte]) & _U64
        if not value & loose_mask:
            return length
    return 0
