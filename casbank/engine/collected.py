"""What a collection leaves in the bank's configuration, for the next one and for people."""

from typing import NamedTuple

from casbank.errors import ErrorKind
from casbank.format import messages
from casbank.format.record import ConfigValue

_VERSION = 1
_FIELDS = 10


class Collected(NamedTuple):
    """When the last collection ended, at which record, what it freed and left (stored bytes), and whether it did all
    that it wanted to. ``window_bytes`` are held for undelete until ``window_until_ns``, 0 if nothing is; the bank was
    marked at ``marked_ns``, since when nothing may have changed."""

    time_ns: int
    seq: int
    freed_bytes: int
    live_bytes: int
    dead_bytes: int
    is_complete: bool
    window_bytes: int
    window_until_ns: int
    marked_ns: int


def encode_collected(collected: Collected) -> bytes:
    """As the configuration has it."""
    return messages.encode([_VERSION, *map(int, collected)])


def decode_collected(value: ConfigValue) -> Collected | None:
    """None if there was no collection, or one of a release that says it otherwise."""
    if not isinstance(value, bytes):
        return None
    fields = messages.decode(value, "note of a collection", ErrorKind.INDEX_VALUE)
    if len(fields) != _FIELDS or fields[0] != _VERSION:
        return None
    _, time_ns, seq, freed, live, dead, is_complete, window_bytes, until_ns, marked_ns = fields
    return Collected(time_ns, seq, freed, live, dead, bool(is_complete), window_bytes, until_ns, marked_ns)
