"""Time, randomness and sleep, as values: what a test or a simulation replaces."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class World:
    """The outside world as far as the engine asks it anything.

    ``now_ns`` is the wall clock in nanoseconds since 1970, ``entropy(n)`` returns n unpredictable bytes, ``sleep_s``
    waits.
    """

    now_ns: Callable[[], int] = time.time_ns
    entropy: Callable[[int], bytes] = os.urandom
    sleep_s: Callable[[float], None] = time.sleep


REAL_WORLD = World()
"""The machine's own clock and randomness."""
