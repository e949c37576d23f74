"""Changes msgpack as what it is: a tree of values.

Bytes alone seldom turn one valid message into another: a longer string needs its length changed as well.
"""

import random
from collections.abc import Callable
from typing import Any

import msgpack

# Around every bound of the formats' numbers, and of what msgpack writes shorter or longer.
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 4095, 4096, 4097, 2**16, 2**20, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1)
_ODD = (None, True, -1, 1.5, "", b"", [], {}, "\0", "n" * 1025, bytes(15), bytes(16), bytes(32), [[]], *_NUMBERS)

MutateBytes = Callable[[bytes, int], bytes]
"""``mutate(data, max_bytes)``: libFuzzer's own mutation."""


def mutate(data: bytes, max_bytes: int, seed: int, mutate_bytes: MutateBytes) -> bytes:
    """One step from ``data``, at most ``max_bytes`` long: by value every other time, if it is msgpack at all."""
    choose = random.Random(seed)
    if choose.random() < 0.5:
        try:
            value = msgpack.unpackb(data, strict_map_key=False)
            changed: bytes = msgpack.packb(_changed(value, choose, mutate_bytes))
        except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
            return mutate_bytes(data, max_bytes)
        if len(changed) <= max_bytes:
            return changed
    return mutate_bytes(data, max_bytes)


def _changed(value: Any, choose: random.Random, mutate_bytes: MutateBytes) -> Any:
    """The tree with one of its values changed; the way down is chosen by chance."""
    if isinstance(value, list) and value and choose.random() < 0.8:
        return _changed_list(value, choose, mutate_bytes)
    if isinstance(value, dict) and value and choose.random() < 0.8:
        key = choose.choice(list(value))
        return value | {key: _changed(value[key], choose, mutate_bytes)}
    if isinstance(value, bytes) and choose.random() < 0.7:
        return mutate_bytes(value, len(value) + 16)
    if isinstance(value, str) and choose.random() < 0.7:
        return mutate_bytes(value.encode(errors="replace"), 4 * len(value) + 16).decode(errors="replace")
    if isinstance(value, int) and choose.random() < 0.5:
        return value + choose.choice((-1, 1))
    return choose.choice(_ODD)


def _changed_list(value: list[Any], choose: random.Random, mutate_bytes: MutateBytes) -> list[Any]:
    at = choose.randrange(len(value))
    action = choose.random()
    if action < 0.7:
        return [*value[:at], _changed(value[at], choose, mutate_bytes), *value[at + 1 :]]
    if action < 0.8:
        return value[:at] + value[at + 1 :]
    if action < 0.9:
        return [*value[:at], choose.choice(value), *value[at:]]
    other = choose.randrange(len(value))
    swapped = list(value)
    swapped[at], swapped[other] = swapped[other], swapped[at]
    return swapped
