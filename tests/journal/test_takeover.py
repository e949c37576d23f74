"""What the next writer makes of the log that a dead writer, a power cut or a bad disk left."""

import re
from collections.abc import Callable

import pytest

from casbank.errors import CorruptionError, ErrorKind
from casbank.journal.base import Head
from casbank.journal.frame import FRAME_HEAD_BYTES
from casbank.journal.segment import Position
from journal.scene import Scene, Start, Tracer, append, make_frame, make_record, records_of

A, B, C = make_record("a", 60), make_record("b", 60), make_record("c", 60)
BEHIND = make_frame(3, C)

# Takes a turn, in which it is killed.
TAKE_TURN = """
import sys
from pathlib import Path
from journal.scene import Scene
with Scene(Path(sys.argv[1])).journal().turn():
    pass
"""


@pytest.fixture
def two(scene: Scene) -> Scene:
    """A log of two records, in one segment."""
    append(scene.journal(), A, B)
    scene.close()
    return scene


def take_turn(scene: Scene) -> Head:
    journal = scene.journal()
    with journal.turn():
        return journal.head()


def quarantined(scene: Scene) -> list[bytes]:
    return [path.read_bytes() for path in sorted(scene.quarantine.glob("*"))]


@pytest.mark.parametrize("writing", [True, False])
def test_unsynced_frame_is_rewritten_into_a_new_segment(two: Scene, writing: bool) -> None:
    """A whole frame behind the mark, which may never reach the disk, is copied into a segment that does."""
    two.leave_behind(BEHIND, writing=writing)
    assert two.journal().head().seq == 2
    assert take_turn(two).seq == 3
    old, new = two.segments()
    assert (old.read_bytes(), new.read_bytes()) == (make_frame(1, A) + make_frame(2, B), BEHIND)
    assert new.name == f"{3:020d}.log"
    assert records_of(two.journal()) == {1: A, 2: B, 3: C}
    assert quarantined(two) == []


def test_takeover_rewrites_each_tail_once(two: Scene) -> None:
    """A takeover leaves nothing for the next one to do."""
    two.leave_behind(BEHIND)
    take_turn(two)
    before = two.files()
    two.close()
    assert take_turn(two).seq == 3
    assert two.files() == before


@pytest.mark.parametrize("cut", range(1, len(BEHIND)))
def test_unsynced_part_of_a_frame_is_cut_off(two: Scene, cut: int) -> None:
    """A part of a frame behind the mark goes to the quarantine, byte for byte; every record stays."""
    two.leave_behind(BEHIND[:cut])
    assert take_turn(two).seq == 2
    assert [torn.rstrip(b"\0") for torn in quarantined(two)] == [BEHIND[:cut].rstrip(b"\0")]
    assert append(two.journal(), C) == 3
    assert records_of(two.journal()) == {1: A, 2: B, 3: C}


def test_torn_bytes_behind_zeros_are_found(two: Scene) -> None:
    """Also what a dead writer left further on, behind zero bytes, is cut off before anything is appended."""
    two.leave_behind(bytes(100) + b"left over")
    take_turn(two)
    assert quarantined(two) == [bytes(100) + b"left over"]


def test_whole_frame_and_torn_one_behind_the_mark(two: Scene) -> None:
    """Whole frames behind the mark are kept, and only what follows them goes to the quarantine."""
    two.leave_behind(BEHIND + make_frame(4, A) + b"torn")
    assert take_turn(two).seq == 4
    assert records_of(two.journal()) == {1: A, 2: B, 3: C, 4: A}
    assert quarantined(two) == [b"torn"]


@pytest.mark.parametrize("gone", ["reboot", "forget_mark"])
@pytest.mark.parametrize("cut", range(len(BEHIND) + 1))
def test_torn_tail_is_cut_after_a_reboot(two: Scene, cut: int, gone: str) -> None:
    """After a power cut whole frames are kept, a torn one goes to the quarantine, and writing goes on."""
    two.leave_behind(BEHIND[:cut])
    getattr(two, gone)()
    whole = {1: A, 2: B} | ({3: C} if cut == len(BEHIND) else {})
    assert records_of(two.journal(read_only=True)) == whole
    assert take_turn(two).seq == len(whole)
    torn = BEHIND[:cut].rstrip(b"\0") if len(whole) == 2 else b""
    assert [each.rstrip(b"\0") for each in quarantined(two)] == ([torn] if torn else [])
    assert append(two.journal(), A) == len(whole) + 1
    assert records_of(two.journal()) == whole | {len(whole) + 1: A}


def test_quarantined_file_says_whose_place_it_had(two: Scene) -> None:
    """The name of a quarantined file carries the number that the torn record would have had."""
    two.leave_behind(b"torn")
    take_turn(two)
    (path,) = two.quarantine.iterdir()
    assert re.fullmatch(r"journal-0{19}3-\d+-[0-9a-f]{16}\.torn", path.name)


def refuses(scene: Scene) -> None:
    """Both a reader and a writer report damage, and neither changes the log."""
    before = scene.files()
    looks: list[Callable[[], Head]] = [scene.journal(read_only=True).head, lambda: take_turn(scene)]
    for look in looks:
        with pytest.raises(CorruptionError) as caught:
            look()
        assert caught.value.kind is ErrorKind.JOURNAL
    assert scene.files() == before


@pytest.mark.parametrize("at", [0, 4, 8, 16, FRAME_HEAD_BYTES, len(BEHIND) - 1])
def test_damage_below_a_valid_frame_is_not_cut_off(two: Scene, at: int) -> None:
    """A flipped bit in a frame that others follow is damage, not a torn tail."""
    two.forget_mark()
    (segment,) = two.segments()
    content = bytearray(segment.read_bytes())
    content[at] ^= 1
    segment.write_bytes(content)
    refuses(two)


@pytest.mark.parametrize("cut", range(len(make_frame(2, B))))
def test_cut_below_the_remembered_head_is_damage(two: Scene, cut: int) -> None:
    """A log that ends before a record which an older mark remembers has lost it: that is reported."""
    two.reboot()
    (segment,) = two.segments()
    segment.write_bytes(segment.read_bytes()[: len(make_frame(1, A)) + cut].ljust(4096, b"\0"))
    refuses(two)


def test_other_record_under_the_remembered_number_is_damage(two: Scene) -> None:
    """A log that ends in another record than the one remembered under that number is not this log."""
    two.reboot()
    (segment,) = two.segments()
    segment.write_bytes(make_frame(1, A) + make_frame(2, C))
    refuses(two)


def test_segment_shorter_than_a_trusted_mark_is_damage(two: Scene) -> None:
    """A log that does not reach to the mark of this boot is damaged, whoever cut it."""
    (segment,) = two.segments()
    segment.write_bytes(segment.read_bytes()[: len(make_frame(1, A))])
    before = two.files()
    with pytest.raises(CorruptionError):
        take_turn(two)
    with pytest.raises(CorruptionError):
        records_of(two.journal())
    assert two.files() == before


def test_missing_segment_is_damage(scene: Scene) -> None:
    """A segment that is missing between others is damage, for a reader and after a reboot for a writer."""
    journal = scene.journal()
    append(journal, *(make_record(n, 900) for n in range(1, 10)))
    scene.segments()[1].unlink()
    with pytest.raises(CorruptionError):
        records_of(scene.journal())
    scene.segments()[-1].write_bytes(b"")
    scene.forget_mark()
    refuses(scene)


def test_flipped_bit_is_found_when_it_is_read(two: Scene) -> None:
    """Under a trusted mark nobody looks at old frames before reading; then their hash is checked."""
    (segment,) = two.segments()
    content = bytearray(segment.read_bytes())
    content[FRAME_HEAD_BYTES] ^= 1
    segment.write_bytes(content)
    assert take_turn(two).seq == 2
    with pytest.raises(CorruptionError) as caught:
        records_of(two.journal())
    assert caught.value.kind is ErrorKind.JOURNAL


def test_segment_that_was_begun_and_not_used_is_taken(two: Scene) -> None:
    """A writer that dies between beginning a segment and its first record leaves one that the next one uses."""
    (two.folder / f"{3:020d}.log").write_bytes(bytes(500))
    assert append(two.journal(), C) == 3
    assert [int(path.stem) for path in two.segments()] == [1, 3]
    two.reboot()
    assert records_of(two.journal()) == {1: A, 2: B, 3: C}


def test_torn_first_record_of_a_new_segment_is_cut_off(two: Scene) -> None:
    """A torn frame at the very start of a segment leaves the end of the one before."""
    for end in (two.reboot, lambda: None):
        (two.folder / f"{3:020d}.log").write_bytes(BEHIND[:40] + bytes(60))
        end()
        assert take_turn(two) == Head(2, B[-32:])
        assert quarantined(two).pop() == BEHIND[:40]
        two.close()
    assert append(two.journal(), C) == 3


def test_segment_that_follows_nothing_is_damage(two: Scene) -> None:
    """A later segment with another number than the next record's is not taken for the log's."""
    (two.folder / f"{7:020d}.log").write_bytes(make_frame(7, C))
    with pytest.raises(CorruptionError):
        take_turn(two)


# What a takeover of an unsynced frame, with torn bytes behind it, does one after the other; each may be its last.
STEPS = [
    *(("fsync", n) for n in range(1, 10)),
    *(("pwrite64", n) for n in (1, 2)),
    *(("write,writev", n) for n in (1, 2)),
    ("rename", 1),
    ("ftruncate", 1),
    ("ftruncate", 2),
]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_takeover_that_dies_is_taken_over(
    two: Scene, start: Start, tracer: Tracer, tmp_path_factory: pytest.TempPathFactory, step: tuple[str, int]
) -> None:
    """Whatever the step at which a takeover dies, the next one gets the same records, in this boot or after another."""
    two.leave_behind(BEHIND + b"torn")
    kill = ("-e", f"trace={step[0]}", "-e", f"inject={step[0]}:signal=KILL:when={step[1]}")
    child = start(TAKE_TURN, two.root, under=tracer(two.root / "trace", *kill))
    assert child.wait() != 0
    rebooted = two.copy(tmp_path_factory.mktemp("rebooted") / "scene")
    rebooted.reboot()
    for dead in (two, rebooted):
        assert records_of(dead.journal(read_only=True)) in ({1: A, 2: B}, {1: A, 2: B, 3: C})
        assert take_turn(dead).seq == 3
        assert append(dead.journal(), A) == 4
        assert records_of(dead.journal()) == {1: A, 2: B, 3: C, 4: A}
        assert {torn.rstrip(b"\0") for torn in quarantined(dead)} <= {b"torn", b"", b"tor", b"to", b"t"}
        assert b"torn" in quarantined(dead)
    rebooted.close()


def test_old_tail_behind_a_newer_segment_does_not_count(two: Scene) -> None:
    """Frames of a segment at or behind the first number of the next one are no records."""
    two.leave_behind(make_frame(3, A))
    (two.folder / f"{3:020d}.log").write_bytes(BEHIND)
    two.reboot()
    assert records_of(two.journal(read_only=True)) == {1: A, 2: B, 3: C}
    assert take_turn(two).seq == 3
    assert records_of(two.journal()) == {1: A, 2: B, 3: C}


def test_old_tail_behind_an_empty_segment_does_not_count(two: Scene) -> None:
    """Also an empty segment says where the one before it ends."""
    two.leave_behind(make_frame(3, A))
    (two.folder / f"{3:020d}.log").touch()
    two.reboot()
    assert take_turn(two).seq == 2
    assert records_of(two.journal()) == {1: A, 2: B}


def test_segment_begun_by_another_is_made_durable(two: Scene, start: Start, tracer: Tracer) -> None:
    """Who takes a segment that another one began syncs it, and its name, before using it."""
    begun = two.folder / f"{3:020d}.log"
    begun.touch()
    trace = two.root / "trace"
    assert start(TAKE_TURN, two.root, under=tracer(trace, "-y", "-e", "trace=fsync")).wait() == 0
    synced = re.findall(r"fsync\(\d+<(.*?)>", trace.read_text())
    assert synced.index(str(begun)) < len(synced) - 1 - synced[::-1].index(str(two.folder))


def test_reader_sees_no_further_than_the_mark(two: Scene) -> None:
    """What is written and not yet synced is shown to no reader of this boot."""
    two.leave_behind(BEHIND)
    assert records_of(two.journal()) == {1: A, 2: B}
    assert records_of(two.journal(read_only=True)) == {1: A, 2: B}


def test_both_slots_torn_is_as_good_as_no_mark(two: Scene) -> None:
    """A mark of which nothing is left is made anew from the log."""
    two.mark_path.write_bytes(b"\xff" * two.mark_path.stat().st_size)
    assert records_of(two.journal(read_only=True)) == {1: A, 2: B}
    assert append(two.journal(), C) == 3
    assert two.mark().position == Position(1, 3 * len(BEHIND), Head(3, C[-32:]))
