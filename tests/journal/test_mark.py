"""The mark: slots, and who trusts them."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from casbank.journal.base import Head
from casbank.journal.segment import Position
from casbank.journal.synced import SLOT_BYTES, Mark, SyncedFile, decode_mark, encode_mark, newest_mark
from casbank.testing.faults import Fault, failing
from casbank.world import World
from journal.scene import Scene, append, make_record

numbers = st.integers(0, 2**64 - 1)
hashes = st.binary(min_size=32, max_size=32)
positions = st.builds(Position, numbers, numbers, st.builds(Head, numbers, hashes))
marks = st.builds(Mark, st.binary(min_size=16, max_size=16), numbers, st.booleans(), positions)

POSITION = Position(1, 77, Head(3, bytes(range(32))))


def synced_file(path: Path) -> SyncedFile:
    synced = SyncedFile(path, world=World())
    synced.prepare()
    return synced


@given(marks)
def test_slot_says_what_was_put_in(mark: Mark) -> None:
    """A slot carries every field of a mark."""
    assert decode_mark(encode_mark(mark)) == mark


@given(marks, st.integers(0, SLOT_BYTES - 1))
def test_torn_slot_is_none(mark: Mark, at: int) -> None:
    """A slot with any byte changed says nothing."""
    slot = bytearray(encode_mark(mark))
    slot[at] ^= 0x55
    assert decode_mark(bytes(slot)) is None


@given(st.binary(max_size=2 * SLOT_BYTES))
def test_any_bytes_are_no_mark(content: bytes) -> None:
    """Arbitrary content of the file raises nothing and says nothing."""
    assert newest_mark(content) is None


@given(marks, marks, st.booleans())
def test_newer_slot_counts_and_the_older_stands_in_for_it(one: Mark, other: Mark, torn: bool) -> None:
    """Of two slots the one with the higher counter counts; if it is torn, the other one does."""
    older, newer = one._replace(counter=5), other._replace(counter=6)
    slot = encode_mark(newer)
    if torn:
        slot = slot[:40] + bytes([slot[40] ^ 1]) + slot[41:]
    assert newest_mark(encode_mark(older) + slot) == (older if torn else newer)
    assert newest_mark(slot + encode_mark(older)) == (older if torn else newer)


def test_what_one_writes_the_other_sees(tmp_path: Path) -> None:
    """Two who have the file open see each other's marks at once, and trust them."""
    writer, reader = synced_file(tmp_path / "synced"), synced_file(tmp_path / "synced")
    for writing in (True, False, True):
        writer.write(POSITION, writing=writing)
        mark = newest_mark(reader.content())
        assert mark is not None
        assert reader.trusts(mark)
        assert (mark.position, mark.writing) == (POSITION, writing)
    writer.close()
    reader.close()


def test_marks_are_written_in_turn(tmp_path: Path) -> None:
    """The mark before the newest one stays in the file, for who finds the newest one torn."""
    synced = synced_file(tmp_path / "synced")
    for count in range(1, 6):
        synced.write(POSITION._replace(length=count), writing=False)
        slots = synced.content()[:SLOT_BYTES], synced.content()[SLOT_BYTES:]
        lengths = {mark.position.length for mark in map(decode_mark, slots) if mark is not None}
        assert lengths == {count, count - 1} - {0}
    synced.close()


def test_mark_in_a_copied_file_is_not_trusted(tmp_path: Path) -> None:
    """A mark speaks of the file that it was written to, not of a copy."""
    original = synced_file(tmp_path / "synced")
    original.write(POSITION, writing=False)
    (tmp_path / "copy").write_bytes(original.content())
    copy = synced_file(tmp_path / "copy")
    mark = newest_mark(copy.content())
    assert mark is not None
    assert original.trusts(mark)
    assert not copy.trusts(mark)
    original.close()
    copy.close()


def test_mark_of_another_mount_is_trusted_once_it_changes(tmp_path: Path) -> None:
    """A mark of an unknown boot is not trusted when it is found, but whatever is written while we watch is."""
    path = tmp_path / "synced"
    strange = Mark(b"another mount's.", 8, False, POSITION)
    path.write_bytes(encode_mark(strange) + bytes(SLOT_BYTES))
    synced = synced_file(path)
    assert not synced.trusts(strange)
    path.write_bytes(encode_mark(strange) + encode_mark(strange._replace(counter=9)))
    mark = newest_mark(synced.content())
    assert mark is not None
    assert synced.trusts(mark)
    synced.close()


def test_deleted_file_is_noticed_by_who_would_write(scene: Scene) -> None:
    """A writer whose mark was deleted under it does not go on by what it remembers."""
    first, second = scene.journal(), scene.journal()
    append(first, make_record("a"))
    scene.mark_path.unlink()
    append(second, make_record("b"))
    append(first, make_record("c"))
    assert list(first.read(0)) == list(second.read(0)) == [(n, make_record(c)) for n, c in enumerate("abc", 1)]


def test_a_close_that_fails_is_a_close(scene: Scene) -> None:
    """Closing the journal's files is never an error, and no descriptor is used behind it, as others may have it."""
    for number in range(1, 4):
        journal = scene.journal()
        append(journal, make_record(number))
        with failing(scene.folder, number, Fault.EIO) as failure:
            journal.close()
        assert str(failure.failed).startswith("close ")
        append(journal, make_record("late"))
        journal.close()
