"""Frames: what stands around a record in the local log, so that a reader can tell a whole one from a torn one.

``magic u32 | length of the record u32 | seq u64 | first 8 bytes of BLAKE3 over these 16 bytes``, little-endian, then
the record. The magic reads ``CB 4A 52 4C`` ("\\xCBJRL") on disk.

Rule 1: a length is believed only after the head's own check, and compared with the limit before memory is taken.
Rule 2: a frame is valid if its head holds, carries the number that is expected here, and the record's hash holds.
Rule 3: the first place without a valid frame is the END if only zero bytes follow (space that was allocated ahead),
and TORN otherwise. Whether a torn place may be cut off is decided elsewhere: ``find_later_frame`` tells.
No I/O here: bytes come from a ``ReadAt``, be it a file's or a buffer's.
"""

import struct
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import takewhile
from typing import NamedTuple, TypeAlias

from blake3 import blake3

from casbank import limits
from casbank.format.record import record_hash
from casbank.journal.base import RECORD_HASH_BYTES, SEQ_MAX, Head, is_whole

MAGIC = b"\xcbJRL"
_HEAD = struct.Struct("<4sIQ")
_CHECK_BYTES = 8
FRAME_HEAD_BYTES = _HEAD.size + _CHECK_BYTES
# Nothing but its hash: shorter records there cannot be.
_FRAME_BYTES_MIN = FRAME_HEAD_BYTES + RECORD_HASH_BYTES

# Zero bytes and later frames are looked for in blocks of this size.
_BLOCK_BYTES = 1 * limits.MIB
_ZEROS = bytes(_BLOCK_BYTES)

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""``read_at(offset, length)``: the bytes there, fewer than ``length`` only at the end."""


class FrameHead(NamedTuple):
    """``length`` of the record in bytes, its number."""

    length: int
    seq: int


class Frame(NamedTuple):
    """A valid frame: its record, its number, and the offset behind it."""

    seq: int
    record: bytes
    end: int


class Stop(Enum):
    """Why a scan found no further frame."""

    END = "end"
    TORN = "torn"


def encode_frame_head(seq: int, length: int) -> bytes:
    """The 24 bytes that stand before a record of ``length`` bytes."""
    fields = _HEAD.pack(MAGIC, length, seq)
    return fields + _check(fields)


def decode_frame_head(head: bytes) -> FrameHead | None:
    """What the 24 bytes say, or None if they are no frame head, or one of a length that no record has."""
    if len(head) != FRAME_HEAD_BYTES or head[:4] != MAGIC or _check(head[: _HEAD.size]) != head[_HEAD.size :]:
        return None
    _, length, seq = _HEAD.unpack_from(head)
    return FrameHead(length, seq) if RECORD_HASH_BYTES <= length <= limits.RECORD_BYTES_MAX else None


def _check(fields: bytes) -> bytes:
    return blake3(fields).digest(_CHECK_BYTES)


def read_frame_head(read_at: ReadAt, offset: int) -> FrameHead | None:
    """The frame head at ``offset``, or None if there is no valid one."""
    return decode_frame_head(read_at(offset, FRAME_HEAD_BYTES))


def read_frame(read_at: ReadAt, offset: int) -> Frame | None:
    """The whole frame at ``offset``, or None if there is no valid one."""
    head = read_frame_head(read_at, offset)
    if head is None:
        return None
    start = offset + FRAME_HEAD_BYTES
    record = read_at(start, head.length)
    return Frame(head.seq, record, start + head.length) if len(record) == head.length and is_whole(record) else None


class FrameScanner:
    """Iterates over the valid frames from ``offset`` on, whose numbers count up from ``seq``.

    ``offset`` and ``seq`` say where it stands and which number would be next.
    """

    def __init__(self, read_at: ReadAt, *, offset: int, seq: int) -> None:
        self._read_at = read_at
        self.offset = offset
        self.seq = seq

    def __iter__(self) -> Iterator[Frame]:
        while (frame := read_frame(self._read_at, self.offset)) is not None and frame.seq == self.seq:
            self.offset = frame.end
            self.seq += 1
            yield frame

    def run(self, *, up_to: int | None = None) -> Head | None:
        """Iterate to the end, or behind record ``up_to``; the head there, or None if there was no frame."""
        head = None
        for frame in self:
            head = Head(frame.seq, record_hash(frame.record))
            if frame.seq == up_to:
                break
        return head

    def skip_to(self, seq: int) -> bool:
        """Go on to record ``seq`` by the frame heads alone; False if the frames end before it."""
        while self.seq < seq:
            head = read_frame_head(self._read_at, self.offset)
            if head is None or head.seq != self.seq:
                return False
            self.offset += FRAME_HEAD_BYTES + head.length
            self.seq += 1
        return True

    def stop(self) -> Stop:
        """Why there is no further frame, once the iteration has ended."""
        return Stop.END if data_end(self._read_at, self.offset) == self.offset else Stop.TORN


def data_end(read_at: ReadAt, offset: int) -> int:
    """The offset behind the last byte that is not zero; ``offset`` itself if all that follows it is."""
    end = offset
    while block := read_at(offset, _BLOCK_BYTES):
        # Comparing is a memcmp; only a block with data in it is worth the search for its end.
        if block != _ZEROS[: len(block)]:
            end = offset + len(block.rstrip(b"\0"))
        offset += len(block)
    return end


def find_later_frame(read_at: ReadAt, scanner: FrameScanner) -> int | None:
    """The offset of a valid frame somewhere behind the place where ``scanner`` stopped, or None.

    It counts only with a number that so many bytes could have led to. Where the torn frame's head still holds, its
    record is stepped over: an object in it may itself be a journal.
    """
    torn = read_frame_head(read_at, scanner.offset)
    start = scanner.offset
    if torn is not None and torn.seq == scanner.seq:
        start += FRAME_HEAD_BYTES + torn.length
    for offset in _magics(read_at, start):
        head = read_frame_head(read_at, offset)
        # Before the record is read: an object may be full of heads that promise long ones.
        is_possible = (
            head is not None and 0 < head.seq - scanner.seq <= (offset - scanner.offset) // _FRAME_BYTES_MIN + 1
        )
        if is_possible and read_frame(read_at, offset) is not None:
            return offset
    return None


def read_headless(read_at: ReadAt, scanner: FrameScanner, later: int | None) -> Frame | None:
    """The record where ``scanner`` stopped, if only the head before it is damaged; ``later`` is where a frame follows.

    Its hash tells which guess at its end is right. Its number must be confirmed, too: by what is left of the head, or
    by the number of the frame behind it.
    """
    start = scanner.offset + FRAME_HEAD_BYTES
    head = read_at(scanner.offset, FRAME_HEAD_BYTES)
    if len(head) < FRAME_HEAD_BYTES or decode_frame_head(head) is not None or scanner.seq > SEQ_MAX:
        return None
    for end in _guessed_ends(read_at, head, scanner, later):
        record = read_at(start, end - start) if 0 < end - start <= limits.RECORD_BYTES_MAX else b""
        if len(record) == end - start and is_whole(record):
            frame = Frame(scanner.seq, record, end)
            return frame if _is_confirmed(read_at, head, frame) else None
    return None


def _guessed_ends(read_at: ReadAt, head: bytes, scanner: FrameScanner, later: int | None) -> Iterator[int]:
    """Where the record behind a damaged head may end."""
    start = scanner.offset + FRAME_HEAD_BYTES
    _, length, seq = _HEAD.unpack_from(head)
    yield start + length
    if seq == scanner.seq:
        # If the length alone is wrong, the check tells the right one; the later frame may be part of this record.
        for end in takewhile(lambda end: end - start <= limits.RECORD_BYTES_MAX, _magics(read_at, start)):
            if encode_frame_head(seq, end - start)[_HEAD.size :] == head[_HEAD.size :]:
                yield end
    yield data_end(read_at, start) if later is None else later


def _is_confirmed(read_at: ReadAt, head: bytes, frame: Frame) -> bool:
    """Whether the number or the check in a damaged head is this frame's, or the next number's frame follows."""
    following = read_frame_head(read_at, frame.end)
    is_followed = following is not None and following.seq == frame.seq + 1
    right = encode_frame_head(frame.seq, len(frame.record))
    return is_followed or _HEAD.unpack_from(head)[2] == frame.seq or head[_HEAD.size :] == right[_HEAD.size :]


def _magics(read_at: ReadAt, offset: int) -> Iterator[int]:
    """Every offset from ``offset`` on at which the magic stands."""
    while len(block := read_at(offset, _BLOCK_BYTES)) >= len(MAGIC):
        at = block.find(MAGIC)
        while at >= 0:
            yield offset + at
            at = block.find(MAGIC, at + 1)
        # The magic may straddle two blocks.
        offset += len(block) - len(MAGIC) + 1
