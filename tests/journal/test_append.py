"""The local log's appends: what they cost, where they go, and what a full or failing disk makes of them."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from casbank import limits
from casbank.errors import ErrorKind, InvalidInputError, ReadOnlyError, StoreError
from casbank.journal.base import Superseded
from casbank.journal.frame import FRAME_HEAD_BYTES
from journal.scene import GROW_BYTES, SEGMENT_BYTES, Scene, Start, Tracer, append, make_frame, make_record, records_of

# Appends as many records of a size as it is told, and prints each number, or the kind of the error.
APPEND = """
import sys
from pathlib import Path
from journal.scene import Scene, append, make_record
from casbank.errors import CasbankError
count, size = int(sys.argv[2]), int(sys.argv[3])
journal = Scene(Path(sys.argv[1])).journal(segment_bytes_max=2**20)
for number in range(count):
    try:
        print(append(journal, make_record(number, size)), flush=True)
    except CasbankError as error:
        print(error.kind, flush=True)
"""


def calls(trace: Path, *names: str) -> list[str]:
    """The names of the traced calls that are among ``names``, in order."""
    found = re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE)
    return [name for name in found if name in names]


def test_one_append_is_one_fdatasync(scene: Scene, start: Start, tracer: Tracer, tmp_path: Path) -> None:
    """A commit costs one write of the frame and one fdatasync, also where the segment has to grow."""
    append(scene.journal(segment_bytes_max=2**20), make_record("first"))
    trace = tmp_path / "trace"
    syncs = ("pwritev", "pwritev2", "fsync", "fdatasync", "sync", "syncfs", "msync", "sync_file_range")
    child = start(APPEND, tmp_path, 40, 1000, under=tracer(trace, "-e", f"trace=fallocate,{','.join(syncs)}"))
    output, _ = child.communicate()
    assert output.split() == [str(n) for n in range(2, 42)]
    # The first one is the durable name of the journal's folder, once a process.
    folder, *commits = calls(trace, *syncs)
    assert (folder, len(commits), commits[1::2]) == ("fsync", 80, ["fdatasync"] * 40)
    assert len(calls(trace, "fallocate")) == 40 * (1000 + 32 + FRAME_HEAD_BYTES) // GROW_BYTES


def test_segment_is_allocated_ahead(scene: Scene) -> None:
    """The file is longer than its frames, by whole steps, and zero behind them."""
    append(scene.journal(), make_record("a"))
    frame = make_frame(1, make_record("a"))
    (segment,) = scene.segments()
    assert segment.read_bytes() == frame.ljust(GROW_BYTES, b"\0")
    assert segment.stat().st_blocks * 512 >= GROW_BYTES


def test_long_segment_is_followed_by_a_new_one(scene: Scene) -> None:
    """No segment is longer than its bound and one record; each is named by its first record, and read back."""
    records = {n: make_record(n, 450) for n in range(1, 41)}
    for record in records.values():
        append(scene.journal(), record)
    names = [int(path.stem) for path in scene.segments()]
    frame = len(make_frame(1, records[1]))
    assert names == list(range(1, 41, -(-SEGMENT_BYTES // frame)))
    assert all(path.stat().st_size < SEGMENT_BYTES + frame for path in scene.segments()[:-1])
    assert records_of(scene.journal()) == records


def test_new_segment_is_durable_before_its_first_record(
    scene: Scene, start: Start, tracer: Tracer, tmp_path: Path
) -> None:
    """A new segment and its name are synced before a frame is written to it."""
    append(scene.journal(segment_bytes_max=10), make_record("first"))
    program, trace = APPEND.replace("2**20", "10"), tmp_path / "trace"
    child = start(
        program, tmp_path, 1, 10, under=tracer(trace, "-e", "trace=fallocate,fsync,pwritev2,pwritev,fdatasync")
    )
    assert child.communicate()[0].split() == ["2"]
    made = calls(trace, "fallocate", "fsync", "pwritev", "pwritev2", "fdatasync")
    # The first one is the durable name of the journal's folder, once a process.
    assert [name.replace("v2", "v") for name in made] == [
        "fsync",
        "fallocate",
        "fsync",
        "fsync",
        "pwritev",
        "fdatasync",
    ]


def test_forget_deletes_whole_old_segments_only(scene: Scene) -> None:
    """Only segments all of whose records may go are deleted, oldest first; reading what they held is Superseded."""
    journal = scene.journal()
    append(journal, *(make_record(n, 900) for n in range(1, 10)))
    assert [int(path.stem) for path in scene.segments()] == [1, 4, 7]
    for up_to, left in ((2, [1, 4, 7]), (3, [4, 7]), (5, [4, 7]), (8, [7]), (9, [7])):
        journal.forget(up_to)
        assert [int(path.stem) for path in scene.segments()] == left
        assert journal.first() == left[0]
    with pytest.raises(Superseded):
        journal.read(5)


def test_reading_goes_on_while_segments_are_forgotten(scene: Scene) -> None:
    """A reader under whom segments are deleted gets each record in order, or Superseded; never a gap."""
    journal = scene.journal()
    append(journal, *(make_record(n, 900) for n in range(1, 13)))
    reading, other = scene.journal().read(0), scene.journal().read(6)
    assert next(reading).seq == 1
    journal.forget(8)
    assert [entry.seq for _, entry in zip(range(2), reading, strict=False)] == [2, 3]
    with pytest.raises(Superseded):
        next(reading)
    assert [entry.seq for entry in other] == list(range(7, 13))


def test_reader_does_not_look_again_at_what_it_has_read(scene: Scene) -> None:
    """Following begins where the last reading ended: older frames may by now be unreadable."""
    journal, reader = scene.journal(), scene.journal()
    append(journal, make_record(1), make_record(2))
    assert [entry.seq for entry in reader.read(0)] == [1, 2]
    with scene.segments()[0].open("r+b") as file:
        file.write(b"broken")
    append(journal, make_record(3))
    assert [entry.seq for entry in reader.read(2)] == [3]


def test_empty_last_segment_keeps_the_one_before(scene: Scene) -> None:
    """Forgetting never deletes the newest record, though a newer segment without a record follows."""
    journal = scene.journal()
    append(journal, make_record(1, 900), make_record(2, 3000))
    (scene.folder / f"{3:020d}.log").touch()
    journal.forget(2)
    scene.reboot()
    assert append(scene.journal(), make_record(3)) == 3
    assert records_of(scene.journal())[2] == make_record(2, 3000)


def test_read_only_journal_changes_nothing(scene: Scene) -> None:
    """A journal opened read-only reads all, refuses to write, and leaves every byte as it is."""
    append(scene.journal(), make_record(1), make_record(2))
    scene.leave_behind(b"torn")
    scene.reboot()
    before = scene.files(), scene.mark_path.read_bytes()
    journal = scene.journal(read_only=True)
    assert [entry.seq for entry in journal.read(0)] == [1, 2]
    refused: list[Callable[[], None]] = [
        lambda: journal.append(3, make_record(3)),
        lambda: journal.forget(1),
        lambda: enter(journal.turn()),
    ]
    for write in refused:
        with pytest.raises(ReadOnlyError) as caught:
            write()
        assert caught.value.kind is ErrorKind.OPENED_READ_ONLY
    assert (scene.files(), scene.mark_path.read_bytes()) == before


def enter(turn: AbstractContextManager[None]) -> None:
    with turn:
        pass


def test_calls_in_the_wrong_order_are_refused(scene: Scene) -> None:
    """An append needs the thread's own turn, and a thread has one turn at a time."""
    journal = scene.journal()
    with pytest.raises(InvalidInputError):
        journal.append(1, make_record(1))
    with journal.turn(), pytest.raises(InvalidInputError):
        enter(journal.turn())
    assert append(journal, make_record(1)) == 1


def test_failed_fsync_ends_writing(scene: Scene, start: Start, tracer: Tracer, tmp_path: Path) -> None:
    """After a failed fdatasync the outcome is unknown, this instance writes no more and syncs no more."""
    trace = tmp_path / "trace"
    failing = tracer(trace, "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync:error=EIO:when=3")
    child = start(APPEND, tmp_path, 5, 100, under=failing)
    expected = ["1", "2", ErrorKind.OUTCOME_UNKNOWN, ErrorKind.FSYNC_FAILED, ErrorKind.FSYNC_FAILED]
    assert child.communicate()[0].split() == expected
    assert calls(trace, "fdatasync", "fsync")[-3:] == ["fdatasync"] * 3


def test_tail_of_a_failed_fsync_is_rewritten(scene: Scene, start: Start, tracer: Tracer, tmp_path: Path) -> None:
    """The record of a failed fsync is shown to nobody until the next writer has put it into a new segment."""
    failing = tracer(tmp_path / "trace", "-e", "inject=fdatasync:error=EIO:when=3")
    start(APPEND, tmp_path, 3, 100, under=failing).communicate()
    journal = scene.journal()
    assert journal.head().seq == 2
    with journal.turn():
        assert journal.head().seq == 3
    assert [int(path.stem) for path in scene.segments()] == [1, 3]
    assert scene.segments()[0].stat().st_size == 2 * len(make_frame(1, make_record(0, 100)))
    assert scene.segments()[1].read_bytes() == make_frame(3, make_record(2, 100))


@pytest.mark.parametrize("call", ["fallocate", "pwritev2"])
def test_write_that_fails_at_once_may_be_tried_again(
    scene: Scene, start: Start, tracer: Tracer, tmp_path: Path, call: str
) -> None:
    """An append for which nothing could be written says so, and the next one gets its number."""
    # Allocation is tried twice: the step, then what is needed.
    when = "1..2" if call == "fallocate" else "1"
    failing = tracer(tmp_path / "trace", "-e", f"inject={call}:error=ENOSPC:when={when}")
    child = start(APPEND, tmp_path, 3, 100, under=failing)
    assert child.communicate()[0].split() == [ErrorKind.DISK_FULL, "1", "2"]
    assert list(records_of(scene.journal()).values()) == [make_record(1, 100), make_record(2, 100)]


def test_full_disk_at_a_new_segment_may_be_tried_again(
    scene: Scene, start: Start, tracer: Tracer, tmp_path: Path
) -> None:
    """A segment that could not be allocated is used by the next append that finds room."""
    append(scene.journal(segment_bytes_max=10), make_record("first"))
    failing = tracer(tmp_path / "trace", "-e", "inject=fallocate:error=ENOSPC:when=1..2")
    child = start(APPEND.replace("2**20", "10"), tmp_path, 3, 100, under=failing)
    assert child.communicate()[0].split() == [ErrorKind.DISK_FULL, "2", "3"]
    assert [int(path.stem) for path in scene.segments()] == [1, 2, 3]
    assert [entry.seq for entry in scene.journal().read(0)] == [1, 2, 3]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk_leaves_the_journal_usable(small_disk: Path) -> None:
    """On a full disk an append says so and changes nothing; once there is room it goes on."""
    scene = Scene(small_disk)
    journal = scene.journal(segment_bytes_max=limits.SEGMENT_BYTES_MAX, grow_bytes=limits.SEGMENT_GROW_BYTES)
    # A step of allocation does not fit on this disk, a record does.
    append(journal, make_record(1))
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        file.write(bytes(2 * limits.MIB))
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            append(journal, make_record(2, 10_000))
        assert caught.value.kind is ErrorKind.DISK_FULL
        assert (journal.head().seq, scene.journal().head().seq) == (1, 1)
    filler.unlink()
    assert append(journal, make_record(2, 10_000)) == 2
    assert [entry.seq for entry in scene.journal().read(0)] == [1, 2]
    scene.close()


def test_read_only_file_system_can_be_read(small_disk: Path) -> None:
    """A log on a file system that cannot be written is read, with a mark or without."""
    scene = Scene(small_disk)
    append(scene.journal(), make_record(1), make_record(2))
    scene.forget_mark()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert [entry.seq for entry in scene.journal(read_only=True).read(0)] == [1, 2]
    scene.close()
