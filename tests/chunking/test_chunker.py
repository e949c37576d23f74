"""What every chunker owes its callers, whatever its profile."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from casbank.chunking import Chunker, make_chunker, parse_profile

CHUNKERS = st.sampled_from(["gear:64/256/1024", "gear:100/128/4000", "gear:70/4096/4097", "fixed:512"]).map(
    lambda text: make_chunker(parse_profile(text))
)


def noise(seed: int, length: int) -> bytes:
    return blake3(seed.to_bytes(8)).digest(length=length)


DATA = st.builds(noise, st.integers(0, 2**32), st.integers(1, 20_000)) | st.builds(
    lambda pattern, times: pattern * times, st.binary(min_size=1, max_size=9), st.integers(0, 1500)
)


def split(chunker: Chunker, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks of a stream that arrives in blocks."""
    pending = b""
    for block in blocks:
        pending += block
        for length in chunker.cut(pending, final=False):
            yield pending[:length]
            pending = pending[length:]
    for length in chunker.cut(pending, final=True):
        yield pending[:length]
        pending = pending[length:]


@given(CHUNKERS, DATA)
def test_chunks_fill_the_input_within_the_bounds_of_the_profile(chunker, data):
    """All lengths but the last lie between minimum and maximum, none is 0, and together they are the input."""
    lengths = chunker.cut(data, final=True)
    assert sum(lengths) == len(data)
    assert all(chunker.profile.min_bytes <= length for length in lengths[:-1])
    assert all(0 < length <= chunker.profile.max_bytes for length in lengths)


@given(CHUNKERS, DATA)
def test_less_than_one_maximum_stays_undecided(chunker, data):
    """Without ``final`` every chunk is one that ``final`` cuts too, and fewer bytes than the maximum are left."""
    lengths = chunker.cut(data, final=False)
    assert chunker.cut(data, final=True)[: len(lengths)] == lengths
    assert len(data) - sum(lengths) < chunker.profile.max_bytes


@given(CHUNKERS, DATA, st.lists(st.integers(0, 5000), max_size=20))
def test_cuts_do_not_depend_on_the_blocks(chunker, data, block_lengths):
    """However a stream is split into calls, its chunks are those of one call."""
    blocks, rest = [], data
    for length in block_lengths:
        blocks.append(rest[:length])
        rest = rest[length:]
    chunks = list(split(chunker, [*blocks, rest]))
    assert b"".join(chunks) == data
    assert [len(chunk) for chunk in chunks] == chunker.cut(data, final=True)


@pytest.mark.parametrize("name", ["default", "fine", "fixed:512"])
@pytest.mark.parametrize("final", [False, True])
def test_no_data_gives_no_chunks(name, final):
    """An empty buffer has no chunks, at the end of a stream as before it."""
    assert make_chunker(parse_profile(name)).cut(b"", final=final) == []


@pytest.mark.parametrize("name", ["fine", "fixed:4096"])
def test_every_kind_of_buffer_is_cut_alike(name):
    """bytes, bytearray and memoryview at an odd address give the same cuts."""
    data = noise(1, 300_001)
    chunker = make_chunker(parse_profile(name))
    expected = chunker.cut(data, final=True)
    assert chunker.cut(bytearray(data), final=True) == expected
    assert chunker.cut(memoryview(b"x" + data)[1:], final=True) == expected


def test_threads_share_a_chunker():
    """Sixteen concurrent calls on one chunker, with different data, cut as one thread does."""
    chunker = make_chunker(parse_profile("fine"))
    inputs = [noise(seed, 2**20) for seed in range(16)]
    expected = [chunker.cut(data, final=True) for data in inputs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda data: chunker.cut(data, final=True), inputs)) == expected
