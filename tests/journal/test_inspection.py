"""Inspection: what it finds in a log of which any byte, or any file, may be wrong."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from casbank.errors import CorruptionError
from casbank.journal.base import JournalDamage, JournalEntry
from casbank.journal.frame import FRAME_HEAD_BYTES
from casbank.journal.memory import MemoryJournal
from casbank.journal.synced import SLOT_BYTES
from journal.scene import Scene, Start, append, make_frame, make_record
from journal.wreckage import (
    NEWEST,
    RECORDS,
    SMALL_GROW_BYTES,
    SMALL_SEGMENT_BYTES,
    build,
    check,
    flips,
    frames_of,
    inspect,
    numbers_missing,
)

MARKS: dict[str, Callable[[Scene], None]] = {
    "trusted": lambda scene: None,
    "remembered": Scene.reboot,
    "none": Scene.forget_mark,
}

# Appends until it is killed, and forgets what is old.
WRITE = """
import sys
from itertools import count
from pathlib import Path
from journal.scene import Scene, append, make_record
journal = Scene(Path(sys.argv[1])).journal(segment_bytes_max=3000)
for number in count(1):
    seq = append(journal, make_record(number, number % 7 * 100))
    if sys.argv[2] == "forget" and seq % 50 == 0:
        journal.forget(seq - 20)
    if number == 1:
        print("began", flush=True)
"""


@pytest.fixture
def log(scene: Scene) -> Scene:
    """A log of eleven records in four segments, under a trusted mark."""
    build(scene)
    assert len(scene.segments()) >= 4
    return scene


@pytest.fixture(params=MARKS)
def wreck(request: pytest.FixtureRequest, log: Scene) -> Scene:
    """The same, under each kind of mark."""
    MARKS[request.param](log)
    return log


def acknowledged(scene: Scene, left: int) -> range:
    """The numbers that are known to have been given: by a mark, or up to the last record that is left."""
    return range(1, (NEWEST if scene.mark_path.exists() else left) + 1)


def test_clean_log_shows_every_record_and_no_damage(wreck: Scene) -> None:
    """Of an undamaged log all records are shown, and nothing is wrong, under any mark or none."""
    assert list(wreck.journal().inspect()) == [JournalEntry(*each) for each in RECORDS.items()]


def test_nothing_is_created_or_changed(wreck: Scene) -> None:
    """An inspection leaves every file as it is, and makes none, damaged or not."""
    wreck.segments()[1].write_bytes(b"garbage")
    before = {path: path.read_bytes() for path in wreck.root.rglob("*") if path.is_file()}
    assert inspect(wreck.journal()).missing
    assert {path: path.read_bytes() for path in wreck.root.rglob("*") if path.is_file()} == before


def test_empty_folder_has_nothing_to_show(scene: Scene) -> None:
    """Where there is no log yet, nothing is found, and nothing is missing."""
    assert list(scene.journal().inspect()) == []
    assert list(scene.root.iterdir()) == []


PATTERNS = [
    (0x01, 0x80, 0xFF, 0x10),
    pytest.param((0xFF, 0x20, 0x04, 0x01), marks=pytest.mark.slow),
    pytest.param((0x40, 0x02, 0x08, 0x55), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("patterns", PATTERNS)
def test_any_byte_may_be_wrong(wreck: Scene, patterns: tuple[int, ...]) -> None:
    """With any one byte changed, all other records are shown, and that record is too, or it is missing."""
    journal = wreck.journal()
    for segment in wreck.segments():
        content, frames = segment.read_bytes(), frames_of(segment)
        for at, damaged in flips(content, patterns):
            segment.write_bytes(damaged)
            said = inspect(journal)
            hit = {seq for seq, frame in frames.items() if at in frame}
            is_newest = NEWEST in hit and not wreck.mark_path.exists()
            check(said, RECORDS.keys() - hit, acknowledged(wreck, NEWEST - is_newest))
            # Blank bytes behind the frames carry no record; all others are seen to be wrong.
            assert said.is_clean == (not hit or is_newest)
            is_blank = not hit and segment == wreck.segments()[-1]
            assert len(said.tails) == (is_newest or (is_blank and not is_trusted(wreck)))
        segment.write_bytes(content)


def is_trusted(scene: Scene) -> bool:
    return scene.mark_path.exists() and scene.mark().identity != bytes(16)


@pytest.mark.parametrize("which", range(4))
def test_a_segment_may_be_cut_anywhere(wreck: Scene, which: int) -> None:
    """Of a segment of any length all whole records are shown, and the others are missing if anything tells of them."""
    journal, segment = wreck.journal(), wreck.segments()[which]
    content, frames = segment.read_bytes(), frames_of(segment)
    is_last = segment == wreck.segments()[-1]
    for length in range(len(content)):
        segment.write_bytes(content[:length])
        said = inspect(journal)
        lost = {seq for seq, frame in frames.items() if frame.stop > length}
        left = min(lost) - 1 if is_last and lost else NEWEST
        check(said, RECORDS.keys() - lost, acknowledged(wreck, left))


@pytest.mark.parametrize("which", range(4))
def test_a_segment_may_be_gone(wreck: Scene, which: int) -> None:
    """What a deleted segment held is missing, but for the first one, which may have been forgotten."""
    segment = wreck.segments()[which]
    lost, is_last = set(frames_of(segment)), segment == wreck.segments()[-1]
    segment.unlink()
    known = set(acknowledged(wreck, min(lost) - 1 if is_last else NEWEST))
    check(inspect(wreck.journal()), RECORDS.keys() - lost, known - lost if which == 0 else known)


def test_every_segment_may_be_gone(log: Scene) -> None:
    """If nothing but the mark is left, all that it remembers is missing."""
    for segment in log.segments():
        segment.unlink()
    check(inspect(log.journal()), (), RECORDS)


@pytest.mark.parametrize("one", range(4))
@pytest.mark.parametrize("other", range(4))
def test_segments_may_be_swapped(wreck: Scene, one: int, other: int) -> None:
    """Records under a wrong name are shown in their order, and the wrong name is told of."""
    first, second = wreck.segments()[one], wreck.segments()[other]
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    said = inspect(wreck.journal())
    check(said, RECORDS, RECORDS)
    assert len(said.harm) == (0 if one == other else 2)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("name", [0, 2, 3, 50, 2**64 - 1, 2**64, 10**20 - 1])
def test_a_segment_may_have_a_wrong_name(wreck: Scene, which: int, name: int) -> None:
    """Under whatever number a segment is filed, its records are shown under theirs, and the name is told of."""
    segment = wreck.segments()[which]
    segment.rename(wreck.folder / f"{name:020d}.log")
    said = inspect(wreck.journal())
    assert said.entries == RECORDS
    assert len(said.harm) == 1


@pytest.mark.parametrize("which", range(4))
def test_a_segment_may_be_an_older_one(wreck: Scene, which: int) -> None:
    """Of a segment as it was some records ago, these are missing if anything tells of them, and no more."""
    journal, segment = wreck.journal(), wreck.segments()[which]
    frames, size = frames_of(segment), segment.stat().st_size
    content, is_last = segment.read_bytes(), segment == wreck.segments()[-1]
    for seq, frame in frames.items():
        segment.write_bytes(content[: frame.start].ljust(size, b"\0"))
        lost = {each for each in frames if each >= seq}
        check(inspect(journal), RECORDS.keys() - lost, acknowledged(wreck, seq - 1 if is_last else NEWEST))


@pytest.mark.parametrize("which", range(4))
def test_records_behind_a_damaged_head_are_shown(wreck: Scene, which: int) -> None:
    """A head with any one byte wrong costs no record that is known to have been acknowledged."""
    journal, segment = wreck.journal(), wreck.segments()[which]
    content = segment.read_bytes()
    for seq, frame in frames_of(segment).items():
        for at in range(frame.start, frame.start + FRAME_HEAD_BYTES):
            segment.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
            said = inspect(journal)
            assert numbers_missing(said) == set()
            assert (seq in said.entries) == (seq < NEWEST or wreck.mark_path.exists())
            assert [harm.first_seq for harm in said.harm] == ([seq] if seq in said.entries else [])


def test_record_in_a_record_is_not_taken_for_one(wreck: Scene) -> None:
    """A log that an object brought along is not read as part of this one, be the head before it damaged or the rest."""
    content = b"x" * 60 + make_frame(NEWEST + 2, make_record("inner")) + b"x" * 60
    outer, last = content + blake3(content).digest(), make_record("last")
    append(wreck.journal(), outer, last)
    wreck.close()
    segment = next(path for path in wreck.segments() if outer in path.read_bytes())
    content = segment.read_bytes()
    start = content.index(outer)
    for at in range(start - FRAME_HEAD_BYTES, start + 3):
        segment.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        entries = inspect(wreck.journal()).entries
        assert entries[NEWEST + 2] == last
        assert entries.get(NEWEST + 1) == (outer if at < start else None)


@pytest.mark.parametrize("mark", ["remembered", "none"])
@pytest.mark.parametrize("cut", [1, 10, FRAME_HEAD_BYTES, 60, 80])
def test_torn_tail_is_no_damage(log: Scene, cut: int, mark: str) -> None:
    """What a writer that was killed left behind the newest record is told of as a tail."""
    log.leave_behind(make_frame(NEWEST + 1, make_record("torn", 100))[:cut])
    MARKS[mark](log)
    said = inspect(log.journal())
    assert (said.entries, said.is_clean) == (RECORDS, True)
    assert [(tail.first_seq, tail.last_seq, tail.is_tail) for tail in said.tails] == [(NEWEST + 1, None, True)]


def test_nothing_behind_a_trusted_mark_is_looked_at(log: Scene) -> None:
    """Bytes behind a trusted mark, which somebody may be writing, are neither shown nor told of."""
    log.leave_behind(make_frame(NEWEST + 1, make_record("behind")) + b"torn")
    assert list(log.journal().inspect()) == [JournalEntry(*each) for each in RECORDS.items()]


def test_old_tail_behind_a_newer_segment_does_not_count(wreck: Scene) -> None:
    """A record that a takeover copied forward and did not live to cut off is shown once, from where it counts."""
    first, second = wreck.segments()[-2:]
    copied = [make_frame(seq, make_record("of a dead writer")) for seq in frames_of(second)]
    first.write_bytes(first.read_bytes() + b"".join(copied) + b"torn")
    said = inspect(wreck.journal())
    assert (said.entries, said.is_clean, said.tails) == (RECORDS, True, [])


def test_old_tail_stands_in_for_a_damaged_copy(wreck: Scene) -> None:
    """Where the copy of a record cannot be read, the one that it was copied from is shown."""
    first, second = wreck.segments()[:2]
    following, content = int(second.stem), second.read_bytes()
    first.write_bytes(first.read_bytes() + make_frame(following, RECORDS[following]))
    second.write_bytes(content[:40] + b"\xff" + content[41:])
    check(inspect(wreck.journal()), RECORDS, RECORDS)


def test_segment_without_a_record_proves_the_one_before(wreck: Scene) -> None:
    """A segment that was begun says that the record before it was acknowledged."""
    for segment in wreck.segments():
        segment.unlink()
    (wreck.folder / f"{NEWEST + 1:020d}.log").touch()
    said = inspect(wreck.journal())
    assert (said.entries, numbers_missing(said), said.tails) == ({}, {NEWEST}, [])


STRAYS = {"empty": b"", "torn": b"\xa5" * 500, "a record": make_frame(3000, make_record("stray"))}


@pytest.mark.parametrize("content", STRAYS)
@pytest.mark.parametrize("name", [NEWEST + 2, 3000, 10**20 - 1])
def test_segment_that_a_writer_refuses_is_told_of(log: Scene, name: int, content: str) -> None:
    """A segment that does not follow the newest record stands in every writer's way, and is told of."""
    stray = log.folder / f"{name:020d}.log"
    stray.write_bytes(STRAYS[content])
    said = inspect(log.journal())
    assert (said.entries, said.missing) == (RECORDS, [])
    assert [(harm.first_seq, harm.place.split(",")[0]) for harm in said.harm] == [(NEWEST + 1, stray.name)]
    with pytest.raises(CorruptionError):
        append(log.journal(), make_record("more"))


def test_segment_that_was_begun_behind_the_newest_record_is_no_damage(log: Scene) -> None:
    """A segment that a writer began and did not live to fill is in nobody's way."""
    (log.folder / f"{NEWEST + 1:020d}.log").touch()
    assert inspect(log.journal()).is_clean
    append(log.journal(), make_record("more"))


def test_name_that_no_record_can_have_proves_nothing(log: Scene) -> None:
    """Of a number that no record can have nobody concludes that those before it were acknowledged."""
    (log.folder / f"{10**20 - 1:020d}.log").touch()
    log.forget_mark()
    said = inspect(log.journal())
    assert (said.entries, said.missing, len(said.harm)) == (RECORDS, [], 1)


@pytest.mark.parametrize("content", ["empty", "torn"])
def test_segment_in_which_readers_look_in_vain_is_told_of(wreck: Scene, content: str) -> None:
    """A segment between others that lacks its records, which another has, makes readers stumble, and is told of."""
    name = next(seq for seq in RECORDS if not (wreck.folder / f"{seq:020d}.log").exists())
    (wreck.folder / f"{name:020d}.log").write_bytes(STRAYS[content])
    said = inspect(wreck.journal())
    assert (said.entries, [harm.first_seq for harm in said.harm]) == (RECORDS, [name])
    with pytest.raises(CorruptionError):
        list(wreck.journal().read(0))


def test_restart_sets_a_segment_aside_that_writers_refuse(log: Scene) -> None:
    """A restart moves what stands in the way to the quarantine, and writers go on behind its record."""
    stray = log.folder / "00000000000000003000.log"
    stray.write_bytes(STRAYS["torn"])
    anew, more = make_record("anew"), make_record("more")
    log.journal().restart(NEWEST + 1, anew)
    append(log.journal(), more)
    said = inspect(log.journal())
    assert (said.entries, said.is_clean) == ({NEWEST + 1: anew, NEWEST + 2: more}, True)
    assert [path.read_bytes() for path in log.quarantine.rglob(stray.name)] == [STRAYS["torn"]]


def test_other_record_than_the_remembered_one_is_told_of(log: Scene) -> None:
    """If the mark remembers another record under a number, the one that is found is shown, and that is told of."""
    mark = log.mark()
    head = mark.position.head._replace(hash=bytes(32))
    log.set_mark(mark._replace(position=mark.position._replace(head=head)))
    said = inspect(log.journal())
    assert (said.entries, [harm.first_seq for harm in said.harm]) == (RECORDS, [NEWEST])


def test_any_byte_of_the_mark_may_be_wrong(log: Scene) -> None:
    """A damaged mark hides at most the newest record, which the older mark does not know, and damages nothing."""
    content = log.mark_path.read_bytes()
    for _, damaged in flips(content, (0x01, 0xFF, 0x40)):
        log.mark_path.write_bytes(damaged)
        said = inspect(log.journal())
        assert (said.is_clean, said.entries.keys() | {NEWEST}) == (True, RECORDS.keys())
        log.close()


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 2 * SLOT_BYTES, bytes(2 * SLOT_BYTES), b"x" * 9999])
def test_mark_may_be_anything(log: Scene, content: bytes) -> None:
    """Without a mark that can be read all records are shown."""
    log.mark_path.write_bytes(content)
    assert inspect(log.journal()).entries == RECORDS


def test_mark_may_remember_any_number(log: Scene) -> None:
    """A mark of the highest number makes all up to it missing, at once."""
    mark = log.mark()
    head = mark.position.head._replace(seq=2**64 - 1)
    log.set_mark(mark._replace(position=mark.position._replace(head=head), identity=bytes(16)))
    last = list(log.journal().inspect())[-1]
    assert isinstance(last, JournalDamage)
    assert (last.first_seq, last.last_seq, last.is_tail) == (NEWEST + 1, 2**64 - 1, False)


def test_forgotten_records_are_not_missing(log: Scene) -> None:
    """A log of which the first records were let go of is clean."""
    log.journal().forget(6)
    first = int(log.segments()[0].stem)
    assert first > 1
    for mark in MARKS.values():
        mark(log)
        said = inspect(log.journal())
        assert (min(said.entries), set(said.entries), said.is_clean) == (first, set(range(first, NEWEST + 1)), True)


garbage = st.one_of(
    st.binary(max_size=400),
    st.lists(
        st.builds(
            lambda seq, cut, junk: make_frame(seq, RECORDS[1 + seq % NEWEST])[:cut] + junk,
            st.integers(0, NEWEST) | st.integers(0, 2**64 - 1),
            st.integers(1, 300),
            st.binary(max_size=5),
        ),
        max_size=8,
    ).map(b"".join),
)


@settings(max_examples=100, deadline=None)
@given(contents=st.dictionaries(st.integers(0, 14) | st.integers(0, 10**20 - 1), garbage, max_size=5), mark=st.binary())
def test_any_files_can_be_inspected(contents: dict[int, bytes], mark: bytes) -> None:
    """Whatever the files hold, an inspection ends without an error, and numbers ascend."""
    with TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        scene.folder.mkdir()
        for name, content in contents.items():
            (scene.folder / f"{name:020d}.log").write_bytes(content)
        scene.mark_path.write_bytes(mark)
        inspect(scene.journal())
        scene.close()


@pytest.mark.parametrize("way", ["keep", "forget"])
def test_no_damage_is_seen_beside_a_writer(scene: Scene, start: Start, tmp_path: Path, way: str) -> None:
    """While another process appends, rolls and forgets, every inspection shows all that is held, and no damage."""
    child = start(WRITE, tmp_path, way)
    assert next(iter(child.stdout or ())) == "began\n"
    journal, until, newest, looks = scene.journal(read_only=True), time.monotonic() + 2.5, 0, 0
    while time.monotonic() < until:
        held = journal.head().seq
        # Also one that has never seen the mark before.
        looking = journal if looks % 2 else scene.journal(read_only=True)
        said = inspect(looking)
        assert (said.missing, said.harm, said.tails) == ([], [], [])
        assert max(said.entries) >= held >= newest
        newest, looks = held, looks + 1
    assert child.poll() is None
    assert (looks > 3, newest > 50) == (True, True)


def test_damage_is_seen_beside_a_writer(scene: Scene, start: Start, tmp_path: Path) -> None:
    """Real damage is told of, and the inspection ends, though another process goes on appending."""
    append(scene.journal(segment_bytes_max=100), *(make_record(n, 100) for n in range(4)))
    scene.segments()[1].unlink()
    child = start(WRITE, tmp_path, "keep")
    assert next(iter(child.stdout or ())) == "began\n"
    for _ in range(5):
        assert numbers_missing(inspect(scene.journal(read_only=True))) == {2}
    assert child.poll() is None


def test_log_under_a_mark_that_a_writer_takes_over_is_looked_at_again(log: Scene) -> None:
    """What an inspection meets while the first writer of a boot begins is judged by his mark, not by the old one."""
    log.leave_behind(make_frame(NEWEST + 1, make_record("torn"))[:50])
    log.reboot()
    looking = log.journal(read_only=True).inspect()
    assert next(looking) == JournalEntry(1, RECORDS[1])
    more = make_record("more")
    append(log.journal(segment_bytes_max=SMALL_SEGMENT_BYTES, grow_bytes=SMALL_GROW_BYTES), more)
    expected = [JournalEntry(*each) for each in (RECORDS | {NEWEST + 1: more}).items()]
    assert list(looking) == expected[1:]


def test_frame_that_is_begun_under_an_inspection_is_no_tail(log: Scene) -> None:
    """What the first writer of a boot is just writing is not taken for the remains of a dead one."""
    log.reboot()
    looking = log.journal(read_only=True).inspect()
    assert [next(looking) for _ in RECORDS][-1] == JournalEntry(NEWEST, RECORDS[NEWEST])
    with log.journal().turn(), log.segments()[-1].open("r+b") as file:
        file.seek(log.mark().position.length)
        file.write(make_frame(NEWEST + 1, make_record("begun"))[:40])
        file.flush()
        assert list(looking) == []


def test_segments_forgotten_under_an_inspection_are_not_missing(log: Scene) -> None:
    """Records that are let go of while an inspection is under way are passed over."""
    looking = log.journal(read_only=True).inspect()
    assert next(looking) == JournalEntry(1, RECORDS[1])
    log.journal().forget(NEWEST)
    left = set(frames_of(log.segments()[-1]))
    items = list(looking)
    assert all(isinstance(item, JournalEntry) for item in items)
    assert left <= {item.seq for item in items if isinstance(item, JournalEntry)}


def test_memory_journal_shows_what_it_holds() -> None:
    """A journal in memory shows the records that it holds, and damage never."""
    journal = MemoryJournal()
    append(journal, *RECORDS.values())
    journal.forget(4)
    assert list(journal.inspect()) == [JournalEntry(seq, RECORDS[seq]) for seq in range(5, NEWEST + 1)]
