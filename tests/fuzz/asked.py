"""What is asked of every decoder, whatever the bytes.

Rule 1: it decodes or refuses; any other exception leaves the target and is a finding.
Rule 2: it takes no more memory than a file in tests/format/hostile.py may: no length that bytes claim is believed.
Rule 3: what was decoded can be encoded, and decodes to the same value.
"""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from format_cases import REFUSALS
from hostile import MEMORY_BYTES_MAX

T = TypeVar("T")


@contextmanager
def little_memory() -> Iterator[None]:
    """Assert that nobody in here takes more than a hostile file may cost. tracemalloc runs from the first use on."""
    if not tracemalloc.is_tracing():
        # Left on: started and stopped for each input, it makes the process grow by some 3 KB a time.
        tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    yield
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < MEMORY_BYTES_MAX, f"{peak - before} bytes were allocated"


def decoded(decode: Callable[[bytes], T], data: bytes, refusals: tuple[type[Exception], ...] = REFUSALS) -> T | None:
    """What the bytes mean, or None if they are refused."""
    with little_memory(), suppress(*refusals):
        return decode(data)
    return None


def comes_back(
    decode: Callable[[bytes], T],
    encode: Callable[[T], bytes],
    data: bytes,
    refusals: tuple[type[Exception], ...] = REFUSALS,
) -> None:
    """Assert that the bytes are refused, or mean what their own encoding means."""
    value = decoded(decode, data, refusals)
    if value is not None:
        assert decode(encode(value)) == value
