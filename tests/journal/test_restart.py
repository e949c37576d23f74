"""Restarting a log: one record in the place of all, which are set aside; whatever dies on the way."""

import re
from collections.abc import Callable
from contextlib import suppress

import pytest

from casbank.errors import CorruptionError, ErrorKind, InvalidInputError, ReadOnlyError
from casbank.format.record import record_hash
from casbank.journal.base import Head, Journal, JournalEntry
from casbank.journal.local import LocalJournal
from casbank.journal.memory import MemoryJournal
from casbank.journal.synced import SLOT_BYTES, decode_mark
from casbank.world import World
from journal.scene import Scene, Start, Tracer, append, make_record, records_of
from journal.wreckage import NEWEST, RECORDS, build, inspect

NEW, NEXT = make_record("new"), make_record("next")
# Below what is held, in the middle of it, the name of the last segment, the newest record, and numbers behind it.
NUMBERS = [1, 5, 10, NEWEST, NEWEST + 1, NEWEST + 50, 2**64 - 2]

# Restarts the log under a number, and prints the kind of the error, if there is one.
RESTART = """
import sys
sys.dont_write_bytecode = True
from pathlib import Path
from casbank.errors import CasbankError
from journal.scene import Scene, make_record
journal = Scene(Path(sys.argv[1])).journal()
for _ in range(2):
    try:
        journal.restart(int(sys.argv[2]), make_record("new"))
        print("restarted")
    except CasbankError as error:
        print(error.kind)
"""

# Prints the head's number, and the number of a record that it appends.
GO_ON = """
import sys
from pathlib import Path
from journal.scene import Scene, append, make_record
journal = Scene(Path(sys.argv[1])).journal()
print(journal.head().seq, append(journal, make_record("next")))
"""


@pytest.fixture
def log(scene: Scene) -> Scene:
    """A log of eleven records in four segments."""
    build(scene)
    return scene


def set_aside(scene: Scene) -> dict[int, set[bytes]]:
    """What can be read in the quarantine's folders, each of them taken for a log."""
    found: dict[int, set[bytes]] = {}
    for folder in scene.quarantine.glob("journal-*"):
        journal = LocalJournal(folder, world=World(), read_only=True, quarantine=folder / "none")
        for seq, record in inspect(journal).entries.items():
            found.setdefault(seq, set()).add(record)
        journal.close()
    return found


def is_restarted(journal: Journal, seq: int, record: bytes) -> None:
    """The journal is this one record."""
    assert journal.head() == Head(seq, record_hash(record))
    assert (journal.first(), list(journal.inspect())) == (seq, [JournalEntry(seq, record)])
    assert records_of(journal, seq - 1) == {seq: record}


@pytest.mark.parametrize("seq", NUMBERS)
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_restarted_journal_is_one_record(log: Scene, kind: str, seq: int) -> None:
    """After a restart the journal is that record, for who was reading and for who comes, and goes on behind it."""
    shared = MemoryJournal()
    append(shared, *RECORDS.values())
    opens: dict[str, Callable[[], Journal]] = {"local": log.journal, "memory": lambda: shared}
    journal, other = opens[kind](), opens[kind]()
    assert records_of(other) == RECORDS
    journal.restart(seq, NEW)
    for each in (journal, other, opens[kind]()):
        is_restarted(each, seq, NEW)
    assert append(other, NEXT) == seq + 1
    for each in (journal, other, opens[kind]()):
        assert records_of(each, seq - 1) == {seq: NEW, seq + 1: NEXT}


@pytest.mark.parametrize("seq", [10, NEWEST + 1])
def test_other_processes_go_on_behind_a_restart(log: Scene, start: Start, seq: int) -> None:
    """A process that comes after a restart finds its record, and this one finds what that process appends."""
    journal = log.journal()
    journal.restart(seq, NEW)
    assert start(GO_ON, log.root).communicate()[0].split() == [str(seq), str(seq + 1)]
    assert records_of(journal, seq - 1) == {seq: NEW, seq + 1: NEXT}


def test_writer_of_a_replaced_segment_goes_on_in_the_new_one(log: Scene) -> None:
    """Who has the old segment of the same number open, to write and to read, leaves it alone after a restart."""
    other = log.journal()
    appended = append(other, make_record("a"))
    assert records_of(other)[appended] == make_record("a")
    log.journal().restart(10, NEW)
    # Until the next number is the one at which the other stopped reading, in a segment of the same name.
    new = {seq: make_record(f"new {seq}", 50) for seq in range(11, appended + 3)}
    append(other, *new.values())
    assert records_of(other, appended) == {seq: record for seq, record in new.items() if seq > appended}
    assert records_of(other, 9) == {10: NEW} | new


@pytest.mark.parametrize("gone", ["reboot", "forget_mark"])
@pytest.mark.parametrize("seq", NUMBERS)
def test_restarted_journal_survives_a_reboot(log: Scene, seq: int, gone: str) -> None:
    """With a mark of another boot, or none, a restarted journal is what it was."""
    log.journal().restart(seq, NEW)
    getattr(log, gone)()
    is_restarted(log.journal(read_only=True), seq, NEW)
    assert append(log.journal(), NEXT) == seq + 1


@pytest.mark.parametrize("seq", NUMBERS)
def test_old_bytes_are_set_aside(log: Scene, seq: int) -> None:
    """Every segment and the mark are in one folder of the quarantine, byte for byte, and can be read as a log there."""
    before = {path.name: path.read_bytes() for path in [*log.segments(), log.mark_path]}
    log.journal().restart(seq, NEW)
    (folder,) = log.quarantine.iterdir()
    assert re.fullmatch(r"journal-\d+-[0-9a-f]{16}", folder.name)
    append(log.journal(), NEXT)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set_aside(log) == {number: {record} for number, record in RECORDS.items()}
    assert [path.name for path in log.segments()] == [f"{seq:020d}.log"]


def test_mark_remembers_nothing_older(log: Scene) -> None:
    """Both slots of the mark are of the new log, so that no torn one brings back the old end."""
    log.journal().restart(5, NEW)
    content = log.mark_path.read_bytes()
    marks = [decode_mark(content[:SLOT_BYTES]), decode_mark(content[SLOT_BYTES:])]
    assert [mark.position.head for mark in marks if mark is not None] == [Head(5, record_hash(NEW))] * 2
    assert not log.mark().writing


def damage_segments(scene: Scene) -> None:
    for segment in scene.segments():
        segment.write_bytes(b"garbage" + segment.read_bytes()[7:])


def lose_segments(scene: Scene) -> None:
    for segment in scene.segments():
        segment.unlink()


def lose_everything(scene: Scene) -> None:
    for path in scene.folder.iterdir():
        path.unlink()
    scene.folder.rmdir()


def spoil_mark(scene: Scene) -> None:
    scene.mark_path.write_bytes(b"\xff" * 300)


def die_writing(scene: Scene) -> None:
    scene.leave_behind(b"torn")


WRECKERS = [damage_segments, lose_segments, lose_everything, spoil_mark, die_writing, Scene.reboot, Scene.forget_mark]


@pytest.mark.parametrize("wreck", WRECKERS)
@pytest.mark.parametrize("seq", [5, NEWEST + 1])
def test_any_log_can_be_restarted(log: Scene, wreck: Callable[[Scene], None], seq: int) -> None:
    """A restart needs nothing of what the log holds, however damaged that is."""
    wreck(log)
    log.journal().restart(seq, NEW)
    for journal in (log.journal(), log.journal(read_only=True)):
        is_restarted(journal, seq, NEW)
    assert append(log.journal(), NEXT) == seq + 1


def test_restarted_journal_can_be_restarted(log: Scene) -> None:
    """Each restart sets aside what the one before had made."""
    journal = log.journal()
    journal.restart(20, NEW)
    journal.restart(20, NEXT)
    is_restarted(journal, 20, NEXT)
    assert set_aside(log)[20] == {NEW}


def test_what_no_journal_can_hold_is_refused(log: Scene) -> None:
    """Bytes that are no record, and numbers that none can have, are refused before anything is changed."""
    before = log.files()
    for journal in (log.journal(), MemoryJournal()):
        for seq, record in ((5, b"no record"), (0, NEW), (-1, NEW), (2**64, NEW)):
            with pytest.raises(InvalidInputError):
                journal.restart(seq, record)
    assert log.files() == before


def test_restart_is_refused_where_writing_is(log: Scene) -> None:
    """A journal that was opened read-only cannot be restarted, nor can one in a turn."""
    before = log.files()
    with pytest.raises(ReadOnlyError) as caught:
        log.journal(read_only=True).restart(5, NEW)
    assert caught.value.kind is ErrorKind.OPENED_READ_ONLY
    journal = log.journal()
    with journal.turn(), pytest.raises(InvalidInputError):
        journal.restart(5, NEW)
    assert log.files() == before


def test_restart_that_cannot_set_aside_changes_nothing(log: Scene, start: Start, tracer: Tracer) -> None:
    """If an old segment cannot be linked away the log stays as it is, and a second attempt may succeed."""
    failing = tracer(log.root / "trace", "-e", "trace=link", "-e", "inject=link:error=ENOSPC:when=2")
    child = start(RESTART.replace("range(2)", "range(1)"), log.root, 5, under=failing)
    assert child.communicate()[0].split() == [ErrorKind.DISK_FULL]
    assert records_of(log.journal()) == RECORDS
    log.journal().restart(5, NEW)
    is_restarted(log.journal(), 5, NEW)


def test_failed_fsync_ends_the_instance(log: Scene, start: Start, tracer: Tracer) -> None:
    """After a failed fsync a restart is not tried again by the same instance; another one can."""
    failing = tracer(log.root / "trace", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=11")
    child = start(RESTART, log.root, 5, under=failing)
    assert child.communicate()[0].split() == [ErrorKind.GENERAL, ErrorKind.FSYNC_FAILED]
    log.journal().restart(5, NEW)
    is_restarted(log.journal(), 5, NEW)


def test_quarantine_and_segment_are_durable_before_anything_goes(log: Scene, start: Start, tracer: Tracer) -> None:
    """What is set aside is synced before the new segment has a name; that, and the mark, before an old one goes."""
    trace = log.root / "trace"
    child = start(
        RESTART.replace("range(2)", "range(1)"),
        log.root,
        NEWEST + 1,
        under=tracer(trace, "-y", "-e", "trace=link,fsync,rename,unlink"),
    )
    assert child.communicate()[0] == "restarted\n"
    done = re.findall(r"^\d+ +(\w+)\((?:\d+<)?\"?([^\">]*)", trace.read_text(), re.MULTILINE)
    steps = [(call, re.sub(r"\d{20}.log|journal-.*", "*", path.removeprefix(f"{log.root}/"))) for call, path in done]
    steps = steps[steps.index(("fsync", "journal/*")) :]
    assert steps == [
        *[("fsync", "journal/*"), ("link", "journal/*")] * 4,
        ("fsync", "quarantine/*"),
        ("fsync", "quarantine/*"),
        ("unlink", "journal/rewrite"),
        ("fsync", "journal/rewrite"),
        ("rename", "journal/rewrite"),
        ("fsync", "journal"),
        ("fsync", "journal/synced"),
        *[("unlink", "journal/*")] * 4,
        ("fsync", "journal"),
    ]


# What a restart does one after the other; each may be its last.
STEPS = [
    *(("fsync", n) for n in range(1, 14)),
    *(("link", n) for n in range(1, 5)),
    *(("unlink", n) for n in range(1, 5)),
    *(("writev", n) for n in (1, 2)),
    *(("pwrite64", n) for n in (1, 2, 3)),
    ("rename", 1),
]


# The last segment has the new one's name, or it has not.
DEATHS = [
    *((10, step) for step in STEPS),
    *(
        pytest.param((seq, step), marks=pytest.mark.slow)
        for seq in (5, NEWEST, NEWEST + 1, NEWEST + 50)
        for step in STEPS
    ),
]


@pytest.mark.parametrize("death", DEATHS, ids=str)
def test_restart_that_dies_loses_nothing(
    log: Scene,
    start: Start,
    tracer: Tracer,
    tmp_path_factory: pytest.TempPathFactory,
    death: tuple[int, tuple[str, int]],
) -> None:
    """Whatever the step at which a restart dies, each record is in the log or set aside, and another one succeeds."""
    seq, step = death
    # It remembers where the log ends, and has that segment open.
    writer = log.journal()
    append(writer, make_record("its"))
    kill = ("-e", f"trace={step[0]}", "-e", f"inject={step[0]}:signal=KILL:when={step[1]}")
    child = start(RESTART, log.root, seq, under=tracer(log.root / "trace", *kill))
    assert child.wait() != 0
    rebooted = log.copy(tmp_path_factory.mktemp("rebooted") / "scene")
    rebooted.reboot()
    for dead, survivor in ((log, writer), (rebooted, rebooted.journal())):
        nothing_is_lost(dead)
        goes_on_or_says_so(dead, survivor)
        dead.journal().restart(seq, NEW)
        is_restarted(dead.journal(), seq, NEW)
        nothing_is_lost(dead)
        assert append(dead.journal(), NEXT) == seq + 1
    rebooted.close()


def nothing_is_lost(scene: Scene) -> None:
    aside, held = set_aside(scene), inspect(scene.journal(read_only=True)).entries
    assert {seq for seq in RECORDS if RECORDS[seq] not in {held.get(seq), *aside.get(seq, ())}} == set()


def goes_on_or_says_so(scene: Scene, writer: Journal) -> None:
    """What a writer appends is in the log, or he learns that it is damaged."""
    seq = 0
    with suppress(CorruptionError):
        seq = append(writer, NEXT)
    if seq:
        assert records_of(scene.journal(), seq - 1) == {seq: NEXT}
