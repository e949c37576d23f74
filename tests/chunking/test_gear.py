"""The gear chunker's cuts: frozen, spread as computed, and moved only near an edit."""

import random
import struct
from itertools import accumulate

from blake3 import blake3

from casbank.chunking import PRESETS, PUBLIC_SECRET, Profile, gear_table, make_chunker

MIB = 2**20


def noise(name: str, length: int) -> bytes:
    return blake3(name.encode()).digest(length=length)


def chunk_ids(data: bytes) -> list[bytes]:
    lengths = make_chunker(PRESETS["default"]).cut(data, final=True)
    view = memoryview(data)
    return [blake3(view[end - length : end]).digest() for length, end in zip(lengths, accumulate(lengths), strict=True)]


def edited(data: bytes, edits: int) -> bytes:
    """``data`` after inserts, deletions and overwrites of 1 to 4,096 bytes each, at random places."""
    result, draw = bytearray(data), random.Random(20)
    for _ in range(edits):
        at, length = draw.randrange(len(result)), draw.randint(1, 4096)
        removed, added = draw.choice([(0, length), (length, 0), (length, length)])
        result[at : at + removed] = draw.randbytes(added)
    return bytes(result)


def test_public_table_is_frozen():
    """The gear table of unencrypted banks never changes: all their cuts would move."""
    assert PUBLIC_SECRET == b"casbank v1 public gear table"
    assert (
        blake3(gear_table(PUBLIC_SECRET)).hexdigest()
        == "8c84acedb71ec0b20bf21a0e06f923def2c58819a5967c9026ba52fd8b5f0f1f"
    )


def test_default_cuts_are_frozen():
    """The default profile cuts a known MiB where it always did."""
    lengths = make_chunker(PRESETS["default"]).cut(noise("casbank golden vector", MIB), final=True)
    assert lengths == [
        19368,
        77986,
        85894,
        78224,
        73863,
        26647,
        68229,
        116172,
        120090,
        73020,
        53206,
        66610,
        70205,
        80515,
        38547,
    ]


def test_many_cuts_are_frozen():
    """Some thousand cuts of a small profile, by content as well as forced, stay where they were."""
    lengths = make_chunker(Profile("gear", 64, 256, 512)).cut(noise("casbank golden vector", MIB), final=True)
    assert 512 in lengths
    assert (
        blake3(struct.pack(f"<{len(lengths)}I", *lengths)).hexdigest()
        == "36b4ebd5721cb915c3e6cba6968d182e73f6037b77dbd7988e7ebb776ab129dc"
    )


def test_cuts_are_those_of_the_definition():
    """A chunk ends at the first length whose last 64 bytes hash, from nothing, to a word with enough zeros on top."""
    profile, data = Profile("gear", 100, 256, 700), noise("definition", 30_000)
    gear = struct.unpack("<256Q", gear_table(b"secret"))

    def ends(start: int, length: int) -> bool:
        window = data[start + length - 64 : start + length]
        value = sum(gear[byte] << 63 - at for at, byte in enumerate(window)) % 2**64
        return value < 2 ** (64 - (8 + 2 if length < 256 else 8 - 2)) or length == 700

    expected, start = [], 0
    while start < len(data):
        rest = len(data) - start
        expected.append(next((length for length in range(100, min(rest, 700) + 1) if ends(start, length)), rest))
        start += expected[-1]
    assert make_chunker(profile, gear_table(b"secret")).cut(data, final=True) == expected


def test_another_secret_cuts_elsewhere():
    """Two dedup secrets agree on no more cuts than chance has it."""
    data = noise("casbank golden vector", 16 * MIB)
    cuts = [
        set(accumulate(make_chunker(PRESETS["default"], gear_table(secret)).cut(data, final=True)[:-1]))
        for secret in (b"one", b"two")
    ]
    assert len(cuts[0] & cuts[1]) <= 1


def test_edits_move_only_the_cuts_near_them():
    """An edit of up to 4 KiB makes fewer than two new chunks on average."""
    edits = 50
    data = noise("resynchronise", 32 * MIB)
    new = set(chunk_ids(edited(data, edits))) - set(chunk_ids(data))
    assert 0 < len(new) < 2 * edits


def test_lengths_are_spread_as_computed():
    """The mean length on random data is within 5 % of what the two masks give."""
    profile = PRESETS["default"]
    strict, loose = 2 ** -(16 + 2), 2 ** -(16 - 2)
    passed = (1 - strict) ** (profile.average_bytes - profile.min_bytes)
    forced = (1 - loose) ** (profile.max_bytes - profile.average_bytes)
    expected = profile.min_bytes + (1 - passed) / strict + passed * (1 - forced) / loose
    lengths = make_chunker(profile).cut(noise("spread", 64 * MIB), final=True)
    assert abs(64 * MIB / len(lengths) / expected - 1) < 0.05
