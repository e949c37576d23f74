"""Frames, and scans over bytes that a crash or a bad disk left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casbank import limits
from casbank.journal.base import RECORD_HASH_BYTES
from casbank.journal.frame import (
    FRAME_HEAD_BYTES,
    FrameHead,
    FrameScanner,
    ReadAt,
    Stop,
    decode_frame_head,
    encode_frame_head,
    find_later_frame,
    read_frame,
)
from journal.scene import make_frame, make_record

records = st.binary(max_size=300).map(lambda body: make_record(body.hex()))


def reader(data: bytes) -> ReadAt:
    return lambda offset, length: data[offset : offset + length]


def log(*numbered: tuple[int, bytes]) -> bytes:
    return b"".join(make_frame(seq, record) for seq, record in numbered)


@given(st.integers(1, 2**64 - 1), st.integers(RECORD_HASH_BYTES, limits.RECORD_BYTES_MAX))
def test_head_says_what_was_put_in(seq: int, length: int) -> None:
    """A frame head carries any number and any length that a record can have."""
    assert decode_frame_head(encode_frame_head(seq, length)) == FrameHead(length, seq)


def test_head_is_laid_out_as_documented() -> None:
    """A frame head is the same bytes for ever."""
    assert encode_frame_head(2, 160).hex() == "cb4a524ca0000000020000000000000018659c69b7713e20"


@pytest.mark.parametrize("length", [0, RECORD_HASH_BYTES - 1, limits.RECORD_BYTES_MAX + 1, 2**32 - 1])
def test_length_that_no_record_has_is_no_head(length: int) -> None:
    """A length is compared with the limits even if the head's check holds."""
    assert decode_frame_head(encode_frame_head(1, length)) is None


@given(st.integers(0, FRAME_HEAD_BYTES * 8 - 1))
def test_head_with_any_flipped_bit_is_none(bit: int) -> None:
    """No single flipped bit of a frame head is believed."""
    head = bytearray(encode_frame_head(7, 1000))
    head[bit // 8] ^= 1 << bit % 8
    assert decode_frame_head(bytes(head)) is None


@given(st.lists(records, max_size=5), st.integers(1, 2**60), st.integers(0, 100))
def test_scan_finds_all_frames_up_to_blank_space(bodies: list[bytes], first: int, blank: int) -> None:
    """What was written is scanned back, and zero bytes behind it are the end."""
    numbered = list(enumerate(bodies, first))
    data = log(*numbered)
    scanner = FrameScanner(reader(data + bytes(blank)), offset=0, seq=first)
    assert [(frame.seq, frame.record) for frame in scanner] == numbered
    assert (scanner.offset, scanner.seq, scanner.stop()) == (len(data), first + len(bodies), Stop.END)


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_scan_of_a_cut_log_stops_at_the_cut(bodies: list[bytes], data: st.DataObject) -> None:
    """A log cut anywhere gives the frames before the cut, and no part of a frame."""
    numbered = list(enumerate(bodies, 1))
    whole = log(*numbered)
    cut = data.draw(st.integers(0, len(whole)))
    scanner = FrameScanner(reader(whole[:cut]), offset=0, seq=1)
    found = [(frame.seq, frame.record) for frame in scanner]
    assert found == numbered[: len(found)]
    assert (scanner.stop() is Stop.END) == (scanner.offset == cut)
    assert find_later_frame(reader(whole[:cut]), scanner) is None


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_scan_of_a_damaged_log_yields_no_wrong_record(bodies: list[bytes], data: st.DataObject) -> None:
    """A flipped bit ends the scan before its frame; a valid frame behind it is found."""
    numbered = list(enumerate(bodies, 1))
    whole = bytearray(log(*numbered))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    scanner = FrameScanner(reader(bytes(whole)), offset=0, seq=1)
    found = [(frame.seq, frame.record) for frame in scanner]
    assert found == numbered[: len(found)]
    assert len(found) < len(bodies)
    assert scanner.stop() is Stop.TORN
    assert (find_later_frame(reader(bytes(whole)), scanner) is None) == (len(found) == len(bodies) - 1)


@given(st.binary(max_size=2000))
def test_scan_of_any_bytes_ends(data: bytes) -> None:
    """A scan over arbitrary bytes raises nothing and finds nothing."""
    scanner = FrameScanner(reader(data), offset=0, seq=1)
    assert list(scanner) == []
    assert find_later_frame(reader(data), scanner) is None


def test_number_out_of_order_ends_the_scan() -> None:
    """A valid frame with another number than the next one is not part of the log."""
    data = log((1, make_record("a")), (3, make_record("c")))
    scanner = FrameScanner(reader(data), offset=0, seq=1)
    assert [frame.seq for frame in scanner] == [1]
    assert scanner.stop() is Stop.TORN
    assert find_later_frame(reader(data), scanner) == scanner.offset


def test_later_frame_is_found_across_blocks() -> None:
    """A valid frame counts wherever it begins, also where two blocks of the search meet."""
    frame = make_frame(2, make_record("b"))
    for start in range(limits.MIB - 4, limits.MIB + 2):
        data = b"\1" * start + frame
        assert find_later_frame(reader(data), FrameScanner(reader(data), offset=0, seq=1)) == start


def test_number_too_far_ahead_is_not_a_later_frame() -> None:
    """A frame counts as later only if the bytes before it could have held the ones between."""
    data = b"\1" * 100 + make_frame(4, make_record("d"))
    assert find_later_frame(reader(data), FrameScanner(reader(data), offset=0, seq=1)) is None


def test_journal_inside_a_torn_record_is_not_a_later_frame() -> None:
    """The content of a torn record is not searched: someone may store a journal in a bank."""
    inner = log((3, make_record("c")), (4, make_record("d")))
    torn = make_frame(2, make_record(inner.hex(), 4000))
    torn = torn[:FRAME_HEAD_BYTES] + inner + torn[FRAME_HEAD_BYTES + len(inner) : -1]
    scanner = FrameScanner(reader(torn), offset=0, seq=2)
    assert list(scanner) == []
    assert find_later_frame(reader(torn), scanner) is None


def test_record_that_does_not_end_in_its_hash_is_no_frame() -> None:
    """The record's own hash is checked, not only the head."""
    record = make_record("a")
    assert read_frame(reader(make_frame(1, record[:-1] + b"\0")), 0) is None
    assert read_frame(reader(make_frame(1, record)), 0) is not None


def test_forged_heads_do_not_make_the_search_slow() -> None:
    """Heads of numbers that cannot be here cost no reading of the records that they promise."""
    size = 4 * limits.MIB
    data = b"\1" * FRAME_HEAD_BYTES + encode_frame_head(10**9, size // 2) * 2000 + b"x" * size
    asked = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal asked
        asked += length
        return data[offset : offset + length]

    assert find_later_frame(read_at, FrameScanner(read_at, offset=0, seq=5)) is None
    assert asked < 4 * len(data)
