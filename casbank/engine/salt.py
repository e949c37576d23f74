"""Salts for new files.

Rule: a salt is never used twice, even where the source of randomness fails or is cloned: by a fork, or in a virtual
machine that was copied while it ran.
"""

import itertools
import os
import time
from functools import cache

from blake3 import blake3

from casbank.format.header import SALT_BYTES
from casbank.storage.mount import boot_id
from casbank.world import World

_calls = itertools.count()


def fresh_salt(world: World) -> bytes:
    """16 bytes: randomness, and what tells this process, boot, moment and call from any other."""
    moment = f"{os.getpid()} {_boot()} {time.monotonic_ns()} {next(_calls)}"
    return blake3(world.entropy(SALT_BYTES) + moment.encode()).digest(SALT_BYTES)


@cache
def _boot() -> str:
    return boot_id()
