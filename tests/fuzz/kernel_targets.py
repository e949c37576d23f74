"""The differential target: the compiled kernel against its twin, whole and in blocks."""

from collections.abc import Iterator
from typing import NamedTuple

from blake3 import blake3

from casbank.chunking import _kernel, _twin, gear_table

_PARAMETER_BYTES = 16
# The twin is slow, and cuts of interest come from small sizes as well.
_CONTENT_BYTES_MAX = 2 * 2**10
_BLOCKS_MAX = 32


class _Rules(NamedTuple):
    """What is passed to both: the gear table, three sizes, two masks."""

    table: bytes
    sizes: tuple[int, int, int]
    masks: tuple[int, int]


def kernel(data: bytes) -> None:
    """For any content, sizes, masks and table the two cut alike, and the kernel so in blocks of any lengths too."""
    parameters, content = data[:_PARAMETER_BYTES].ljust(_PARAMETER_BYTES, b"\0"), data[_PARAMETER_BYTES:]
    rules, content = _rules(parameters), _content(parameters, content)
    expected = _twin.cut(content, *rules, True)
    assert _kernel.cut(content, *rules, True) == expected
    assert _kernel.cut(content, *rules, False) == _twin.cut(content, *rules, False)
    assert list(_cut_in_blocks(content, rules, parameters[12:])) == expected
    assert sum(expected) == len(content)


def _rules(parameters: bytes) -> _Rules:
    minimum = 64 + parameters[0]
    average = minimum + 2 * parameters[1]
    maximum = average + int.from_bytes(parameters[2:4]) % 2048
    strict, loose = parameters[4] % 64, parameters[5] % 64
    # Ones at the top, as profiles have them, or anywhere.
    shift = parameters[6] % 32
    masks = (2**64 - 2 ** (64 - strict)) >> shift, (2**64 - 2 ** (64 - loose)) >> shift
    return _Rules(gear_table(parameters[7:8]), (minimum, average, maximum), masks)


def _content(parameters: bytes, given: bytes) -> bytes:
    """The bytes themselves, as a period, or followed by noise: content as long as a few chunks needs no long input."""
    noise = blake3(given).digest(length=parameters[8] * 16) if parameters[8] else b""
    return (given * (1 + parameters[9] % 64) + noise)[:_CONTENT_BYTES_MAX]


def _cut_in_blocks(content: bytes, rules: _Rules, lengths: bytes) -> Iterator[int]:
    """As a stream is cut: what is not decided yet comes again, with the next block behind it."""
    pending, at = b"", 0
    for length in _blocks(len(content), lengths):
        pending, at = pending + content[at : at + length], at + length
        found = _kernel.cut(memoryview(pending), *rules, at >= len(content))
        yield from found
        pending = pending[sum(found) :]
        assert len(pending) < rules.sizes[2]


def _blocks(total: int, lengths: bytes) -> Iterator[int]:
    """Lengths of blocks that make up ``total`` bytes, in turn one of those given."""
    # What is not decided is scanned again with each block: a block a byte would be slow.
    turn, least = 0, 1 + total // _BLOCKS_MAX
    while total > 0:
        length = least + 8 * lengths[turn % len(lengths)]
        yield length
        total -= length
        turn += 1
