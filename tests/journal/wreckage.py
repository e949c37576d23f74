"""A small log to be damaged in every way, and what an inspection of it must say all the same."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from casbank.journal.base import Journal, JournalDamage, JournalEntry
from journal.scene import Scene, append, make_frame, make_record

SMALL_SEGMENT_BYTES = 300
SMALL_GROW_BYTES = 128
# Records of about 100 bytes: four segments of two to four, the last one with blank bytes behind its frames.
RECORDS = {seq: make_record(f"record {seq}", seq * 29 % 90) for seq in range(1, 12)}
NEWEST = len(RECORDS)


class Said(NamedTuple):
    """What an inspection said: records, ranges of missing ones, and the numbers at which something else is wrong."""

    entries: dict[int, bytes]
    missing: list[JournalDamage]
    harm: list[JournalDamage]
    tails: list[JournalDamage]

    @property
    def is_clean(self) -> bool:
        return not self.missing and not self.harm


def build(scene: Scene) -> None:
    """Write the log, and close it."""
    journal = scene.journal(segment_bytes_max=SMALL_SEGMENT_BYTES, grow_bytes=SMALL_GROW_BYTES)
    append(journal, *RECORDS.values())
    scene.close()


def frames_of(segment: Path) -> dict[int, range]:
    """The bytes of each record's frame in an undamaged segment."""
    frames, start, seq = {}, 0, int(segment.stem)
    content = segment.read_bytes()
    while seq in RECORDS and content.startswith(frame := make_frame(seq, RECORDS[seq]), start):
        frames[seq] = range(start, start + len(frame))
        start, seq = start + len(frame), seq + 1
    return frames


def inspect(journal: Journal) -> Said:
    """Inspect, and check what holds whatever was done to the files: order, and the records that are shown."""
    said = Said({}, [], [], [])
    at = 0
    for item in journal.inspect():
        if isinstance(item, JournalEntry):
            assert item.seq > at
            at = item.seq
            said.entries[item.seq] = item.record
            continue
        assert item.first_seq > at
        if item.last_seq is None:
            assert item.is_tail
            said.tails.append(item)
        elif item.last_seq < item.first_seq:
            assert item.last_seq == item.first_seq - 1
            said.harm.append(item)
        else:
            said.missing.append(item)
            at = item.last_seq
    return said


def numbers_missing(said: Said) -> set[int]:
    return {seq for item in said.missing for seq in range(item.first_seq, (item.last_seq or 0) + 1)}


def check(said: Said, untouched: Iterable[int], expected: Iterable[int]) -> None:
    """All records are genuine, the untouched ones are there, and the others of the expected ones are missing."""
    assert said.entries.items() <= RECORDS.items()
    assert set(untouched) <= set(said.entries)
    assert set(expected) - set(said.entries) == numbers_missing(said)


def flips(content: bytes, patterns: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
    """Every byte changed, one at a time, in one of several ways each."""
    for at, byte in enumerate(content):
        pattern = patterns[at % len(patterns)]
        yield at, content[:at] + bytes([byte ^ pattern]) + content[at + 1 :]
