"""Targets for the journal's log and its mark, read back after whatever a disk or a crash left."""

from collections.abc import Iterator

from blake3 import blake3

from casbank import limits
from casbank.journal.base import is_whole
from casbank.journal.frame import (
    FRAME_HEAD_BYTES,
    FrameScanner,
    ReadAt,
    decode_frame_head,
    encode_frame_head,
    find_later_frame,
    read_frame,
)
from casbank.journal.synced import SLOT_BYTES, decode_mark, encode_mark, newest_mark
from fuzz.asked import little_memory
from fuzz.sealed import hashed

_CHECK_BYTES = 8
_FIRST_SEQ = 7


def frames(data: bytes) -> None:
    """A scan of any log ends, yields the frames that stand in it and nothing else; so does the search behind it."""
    for log in (data, b"".join(_log(data))):
        with little_memory():
            _scan(log)


def _scan(log: bytes) -> None:
    read_at = _reader(log)
    scanner = FrameScanner(read_at, offset=0, seq=_FIRST_SEQ)
    start = 0
    for seq, frame in enumerate(scanner, _FIRST_SEQ):
        assert (frame.seq, log[start : frame.end]) == (seq, encode_frame_head(seq, len(frame.record)) + frame.record)
        assert is_whole(frame.record)
        start = frame.end
    assert scanner.offset == start
    scanner.stop()
    later = find_later_frame(read_at, scanner)
    assert later is None or (later >= start and read_frame(read_at, later) is not None)
    skipping = FrameScanner(read_at, offset=0, seq=_FIRST_SEQ)
    assert skipping.skip_to(scanner.seq)
    assert skipping.offset == start


def _reader(log: bytes) -> ReadAt:
    def read_at(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert 0 <= length <= limits.RECORD_BYTES_MAX
        return log[offset : offset + length]

    return read_at


def _log(data: bytes) -> Iterator[bytes]:
    """A log that the bytes describe: each piece is what to write, how long it is, and its content."""
    seq, at = _FIRST_SEQ, 0
    while at + 2 <= len(data):
        what, length = data[at] % 8, data[at + 1]
        content = data[at + 2 : at + 2 + length]
        at += 2 + length
        record = hashed(content)
        if what < 3:
            yield encode_frame_head(seq, len(record)) + record
            seq += 1
        else:
            yield _damaged(what, seq, record)


def _damaged(what: int, seq: int, record: bytes) -> bytes:
    """Torn or misplaced: another number, a wrong hash, a cut, a huge length, no frame at all."""
    if what == 3:
        return encode_frame_head(seq + record[0], len(record)) + record
    if what == 4:
        return encode_frame_head(seq, len(record)) + record[:-1] + bytes([record[-1] ^ 1])
    if what == 5:
        return (encode_frame_head(seq, len(record)) + record)[: -1 - record[0] % len(record)]
    if what == 6:
        return encode_frame_head(seq, int.from_bytes(record[:4])) + record
    return record[:-32] or bytes(64)


def frame_head(data: bytes) -> None:
    """Any 24 bytes are no head, or the head of a record that can be."""
    fields = data[: FRAME_HEAD_BYTES - _CHECK_BYTES]
    for whole in (data, fields + blake3(fields).digest(_CHECK_BYTES)):
        head = decode_frame_head(whole)
        if head is not None:
            assert 32 <= head.length <= limits.RECORD_BYTES_MAX
            assert encode_frame_head(head.seq, head.length) == whole


def mark(data: bytes) -> None:
    """Of any two slots the newest is one that holds, and it says what its encoding says."""
    middle = len(data) // 2
    for content in (data, b"".join(map(_slot, (data[:middle], data[middle:])))):
        newest = newest_mark(content)
        slots = [decode_mark(content[:SLOT_BYTES]), decode_mark(content[SLOT_BYTES:])]
        counters = [slot.counter for slot in slots if slot is not None]
        assert (newest is None) == (not counters)
        if newest is not None:
            assert newest.counter == max(counters)
            assert decode_mark(encode_mark(newest)) == newest


def _slot(fields: bytes) -> bytes:
    fields = fields[: SLOT_BYTES - _CHECK_BYTES].ljust(SLOT_BYTES - _CHECK_BYTES, b"\0")
    return fields + blake3(fields).digest(_CHECK_BYTES)
